"""Qwen3 30B-A3B, base and post-trained.

    python launch/analyze.py --config=configs/qwen3_30b_a3b.py --output=outputs/qwen3_30b_a3b

The first run downloads both models from the hub. The result is outputs/qwen3_30b_a3b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (30,532,122,624 parameters), and
no time is promised.

- Units: `routed` 48 x 128 x 768 = 4,718,592, `expert` 48 x 128 = 6,144. At epsilon 0.05 S(i) is the top 235,930
  neurons, and ties.
- Arrays: 9,474,048 bytes an instruction before compression, 11.4 GB for the 1,200 of HexaInst.
- Memory of a device: 61.1 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  31.2 GB (2), 16.2 GB (4). To these come about 1 GB for activations at 8,192 token
  slots and 9.5 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 18.9 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "qwen3-30b-a3b": {"base": "Qwen/Qwen3-30B-A3B-Base", "tuned": "Qwen/Qwen3-30B-A3B"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
