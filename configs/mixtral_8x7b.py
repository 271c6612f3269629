"""Mixtral 8x7B v0.1 and its instruct version.

    python launch/analyze.py --config=configs/mixtral_8x7b.py --output=outputs/mixtral_8x7b

The first run downloads both models from the hub. The result is outputs/mixtral_8x7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (46,702,792,704 parameters), and
no time is promised.

- Units: `routed` 32 x 8 x 14,336 = 3,670,016, `expert` 32 x 8 = 256. At epsilon 0.05 S(i) is the top 183,501 neurons,
  and ties.
- Arrays: 7,341,568 bytes an instruction before compression, 8.8 GB for the 1,200 of HexaInst.
- Memory of a device: 93.4 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  47.0 GB (2), 23.7 GB (4), 12.1 GB (8). To these come about 1 GB for activations
  at 8,192 token slots and 7.3 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 29.1 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "mixtral-8x7b": {"base": "mistralai/Mixtral-8x7B-v0.1", "tuned": "mistralai/Mixtral-8x7B-Instruct-v0.1"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
