"""Pythia 6.9B and Dolly v2 7B, which was tuned from it.

    python launch/analyze.py --config=configs/pythia_6_9b.py --output=outputs/pythia_6_9b

The first run downloads both models from the hub; it refuses weights that are only there as pickles: save them as
safetensors with transformers first. The result is outputs/pythia_6_9b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (6,857,302,016 parameters), and
no time is promised.

- Units: `mlp` 32 x 16,384 = 524,288. At epsilon 0.05 S(i) is the top 26,215 neurons, and ties.
- Arrays: 1,048,576 bytes an instruction before compression, 1.3 GB for the 1,200 of HexaInst.
- Memory of a device: 13.7 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  7.3 GB (2), 4.0 GB (4), 2.4 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 1.0 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 4.2 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "pythia-6-9b": {"base": "EleutherAI/pythia-6.9b", "tuned": "databricks/dolly-v2-7b"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
