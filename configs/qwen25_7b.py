"""Qwen2.5 7B and its instruct version.

    python launch/analyze.py --config=configs/qwen25_7b.py --output=outputs/qwen25_7b

The first run downloads both models from the hub. The result is outputs/qwen25_7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (7,615,616,512 parameters), and
no time is promised.

- Units: `mlp` 28 x 18,944 = 530,432. At epsilon 0.05 S(i) is the top 26,522 neurons, and ties.
- Arrays: 1,060,864 bytes an instruction before compression, 1.3 GB for the 1,200 of HexaInst.
- Memory of a device: 15.2 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  8.7 GB (2), 5.4 GB (4). To these come about 1 GB for activations at 8,192 token
  slots and 1.1 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 3.7 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "qwen25-7b": {"base": "Qwen/Qwen2.5-7B", "tuned": "Qwen/Qwen2.5-7B-Instruct"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
