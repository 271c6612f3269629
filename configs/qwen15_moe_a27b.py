"""Qwen1.5-MoE-A2.7B and its chat version: a Mixture-of-Experts pair, whole on every device.

    python launch/analyze.py --config=configs/qwen15_moe_a27b.py --output=outputs/qwen15_moe_a27b

The first run downloads both models from the hub. The result is outputs/qwen15_moe_a27b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (24 layers, all of them MoE, 60
experts top-4 of width 1,408, shared expert 5,632, D 2,048, 16 heads, vocabulary 151,936; 14,315,784,192 parameters),
and no time is promised.

- Units: `routed` 24 x 60 x 1,408 = 2,027,520 neurons, `shared` 24 x 5,632 = 135,168, `expert` 24 x 60 = 1,440. At
  epsilon 0.05 S(i) is the top 101,376 and 6,759 neurons, and ties; of the experts the top 4 of every layer.
- Arrays: `routed/positive_count` 4,055,040 bytes an instruction before compression, `shared/positive_count` 270,336,
  `selected_count` 2,880, `gate_sum` 5,760: 5.2 GB for the 1,200 instructions of HexaInst, in blocks of 128.
- Memory of a device: 28.6 GB of parameters in bfloat16; at 8,192 token slots about 0.5 GB for attention (window 512,
  for texts of up to 385 tokens; it grows with the window) and 4.3 MB of counts for each text of a batch (0.55 GB for
  128), two batches at a time. 40 GB are enough. On smaller devices:
  `--config.execution.placement=mesh:2` (14.9 GB of parameters each) or `mesh:4` (8.1 GB).
- Memory of the host: convert holds the largest stack of layers, 7.9 GB; capture holds a few blocks of 0.55 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "qwen15-moe": {"base": "Qwen/Qwen1.5-MoE-A2.7B", "tuned": "Qwen/Qwen1.5-MoE-A2.7B-Chat"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
