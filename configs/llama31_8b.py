"""Llama 3.1 8B and its instruct version.

    python launch/analyze.py --config=configs/llama31_8b.py --output=outputs/llama31_8b

The weights are gated: accept their terms on the hub and log in (`hf auth login`) before the first run, which
downloads them. The result is outputs/llama31_8b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (8,030,261,248 parameters), and
no time is promised.

- Units: `mlp` 32 x 14,336 = 458,752. At epsilon 0.05 S(i) is the top 22,938 neurons, and ties.
- Arrays: 917,504 bytes an instruction before compression, 1.1 GB for the 1,200 of HexaInst.
- Memory of a device: 16.1 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  9.1 GB (2), 5.6 GB (4), 3.8 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 0.9 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 3.6 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "llama31-8b": {"base": "meta-llama/Llama-3.1-8B", "tuned": "meta-llama/Llama-3.1-8B-Instruct"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
