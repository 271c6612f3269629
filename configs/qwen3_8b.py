"""Qwen3 8B, base and post-trained.

    python launch/analyze.py --config=configs/qwen3_8b.py --output=outputs/qwen3_8b

The first run downloads both models from the hub. The result is outputs/qwen3_8b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (8,190,735,360 parameters), and
no time is promised.

- Units: `mlp` 36 x 12,288 = 442,368. At epsilon 0.05 S(i) is the top 22,119 neurons, and ties.
- Arrays: 884,736 bytes an instruction before compression, 1.1 GB for the 1,200 of HexaInst.
- Memory of a device: 16.4 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  9.4 GB (2), 6.0 GB (4), 4.2 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 0.9 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 3.5 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "qwen3-8b": {"base": "Qwen/Qwen3-8B-Base", "tuned": "Qwen/Qwen3-8B"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
