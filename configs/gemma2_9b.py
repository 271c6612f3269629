"""Gemma 2 9B and its instruct version.

    python launch/analyze.py --config=configs/gemma2_9b.py --output=outputs/gemma2_9b

The weights are gated: accept their terms on the hub and log in (`hf auth login`) before the first run, which
downloads them. The result is outputs/gemma2_9b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (9,241,705,984 parameters), and
no time is promised.

- Units: `mlp` 42 x 14,336 = 602,112. At epsilon 0.05 S(i) is the top 30,106 neurons, and ties.
- Arrays: 1,204,224 bytes an instruction before compression, 1.4 GB for the 1,200 of HexaInst.
- Memory of a device: 18.5 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  10.2 GB (2), 6.0 GB (4), 3.9 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 1.2 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 4.2 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "gemma2-9b": {"base": "google/gemma-2-9b", "tuned": "google/gemma-2-9b-it"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
