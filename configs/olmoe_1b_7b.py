"""OLMoE 1B-7B and its instruct version.

    python launch/analyze.py --config=configs/olmoe_1b_7b.py --output=outputs/olmoe_1b_7b

The first run downloads both models from the hub. The result is outputs/olmoe_1b_7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (6,919,161,856 parameters), and
no time is promised.

- Units: `routed` 16 x 64 x 1,024 = 1,048,576, `expert` 16 x 64 = 1,024. At epsilon 0.05 S(i) is the top 52,429
  neurons, and ties.
- Arrays: 2,103,296 bytes an instruction before compression, 2.5 GB for the 1,200 of HexaInst.
- Memory of a device: 13.8 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  7.1 GB (2), 3.8 GB (4), 2.1 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 2.1 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 4.0 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "olmoe-1b-7b": {"base": "allenai/OLMoE-1B-7B-0924", "tuned": "allenai/OLMoE-1B-7B-0924-Instruct"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
