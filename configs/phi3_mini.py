"""Phi-3 mini, of which only the instruct version was published.

    python launch/analyze.py --config=configs/phi3_mini.py --output=outputs/phi3_mini

The first run downloads the model from the hub; the code that comes with it is not run. The result is
outputs/phi3_mini/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (3,821,079,552 parameters), and
no time is promised.

- Units: `mlp` 32 x 8,192 = 262,144. At epsilon 0.05 S(i) is the top 13,108 neurons, and ties.
- Arrays: 524,288 bytes an instruction before compression, 0.6 GB for the 1,200 of HexaInst.
- Memory of a device: 7.6 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  4.0 GB (2), 2.2 GB (4), 1.3 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 0.5 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 1.6 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the model."""
    config = default_config()
    config.pairs = ConfigDict({
        "phi3-mini": {"tuned": "microsoft/Phi-3-mini-4k-instruct"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
