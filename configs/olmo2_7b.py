"""OLMo 2 7B and its instruct version.

    python launch/analyze.py --config=configs/olmo2_7b.py --output=outputs/olmo2_7b

The first run downloads both models from the hub. The result is outputs/olmo2_7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (7,298,617,344 parameters), and
no time is promised.

- Units: `mlp` 32 x 11,008 = 352,256. At epsilon 0.05 S(i) is the top 17,613 neurons, and ties.
- Arrays: 704,512 bytes an instruction before compression, 0.8 GB for the 1,200 of HexaInst.
- Memory of a device: 14.6 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  8.1 GB (2), 4.9 GB (4), 3.3 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 0.7 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 2.8 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "olmo2-7b": {"base": "allenai/OLMo-2-1124-7B", "tuned": "allenai/OLMo-2-1124-7B-Instruct"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
