"""DeepSeek-V2 Lite and its chat version.

    python launch/analyze.py --config=configs/deepseek_v2_lite.py --output=outputs/deepseek_v2_lite

The first run downloads both models from the hub; the code that comes with them is not run. The result is
outputs/deepseek_v2_lite/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (15,706,484,224 parameters), and
no time is promised.

- Units: `mlp` 1 x 10,944 = 10,944, `shared` 26 x 2,816 = 73,216, `routed` 26 x 64 x 1,408 = 2,342,912, `expert` 26 x
  64 = 1,664. At epsilon 0.05 S(i) is the top 548 and 3,661 and 117,146 neurons, and ties.
- Arrays: 4,864,128 bytes an instruction before compression, 5.8 GB for the 1,200 of HexaInst.
- Memory of a device: 31.4 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  16.2 GB (2), 8.5 GB (4), 4.7 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 4.9 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 9.2 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "deepseek-v2-lite": {"base": "deepseek-ai/DeepSeek-V2-Lite", "tuned": "deepseek-ai/DeepSeek-V2-Lite-Chat"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
