"""Llama 2 7B and its chat version: a dense pair, whole on every device.

    python launch/analyze.py --config=configs/llama2_7b.py --output=outputs/llama2_7b

The weights are gated: accept their terms on the hub and log in (`hf auth login`) before the first run, which downloads
them. The result is outputs/llama2_7b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (32 layers, F 11,008, D 4,096,
32 heads, vocabulary 32,000; 6,738,415,616 parameters), and no time is promised.

- Units: `mlp` 32 x 11,008 = 352,256 neurons; S(i) at epsilon 0.05 is the top 17,613 of them, and ties.
- Arrays: `mlp/positive_count` 704,512 bytes an instruction before compression (845 MB for the 1,200 of HexaInst), the
  masks of a set 44,032 bytes an instruction.
- Memory of a device: 13.5 GB of parameters in the checkpoint's float16; at 8,192 token slots about 1 GB for attention
  (window 512, for texts of up to 385 tokens; it grows with the window) and 0.1 GB of counts for 128 texts. 24 GB are
  enough. With 16 GB: `--config.execution.placement=mesh:2`, 7.0 GB of parameters each.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 2.8 GB.

On TPUs, which compute in bfloat16, add `--config.execution.dtype=bfloat16`.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the pair."""
    config = default_config()
    config.pairs = ConfigDict({
        "llama2-7b": {"base": "meta-llama/Llama-2-7b-hf", "tuned": "meta-llama/Llama-2-7b-chat-hf"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
