"""Mistral 7B v0.3 and its instruct version.

    python launch/analyze.py --config=configs/mistral_7b.py --output=outputs/mistral_7b

The first run downloads both models from the hub. The result is outputs/mistral_7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (7,248,023,552 parameters), and
no time is promised.

- Units: `mlp` 32 x 14,336 = 458,752. At epsilon 0.05 S(i) is the top 22,938 neurons, and ties.
- Arrays: 917,504 bytes an instruction before compression, 1.1 GB for the 1,200 of HexaInst.
- Memory of a device: 14.5 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  7.5 GB (2), 4.0 GB (4), 2.3 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 0.9 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 3.6 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "mistral-7b": {"base": "mistralai/Mistral-7B-v0.3", "tuned": "mistralai/Mistral-7B-Instruct-v0.3"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
