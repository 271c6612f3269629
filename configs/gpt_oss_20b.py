"""gpt-oss 20B, of which only the post-trained version was published.

    python launch/analyze.py --config=configs/gpt_oss_20b.py --output=outputs/gpt_oss_20b

The published weights are quantised (MXFP4), which is refused. Save them in bfloat16 first: load `openai/gpt-oss-20b`
with transformers and `Mxfp4Config(dequantize=True)`, then `save_pretrained("gpt-oss-20b-bf16")` the model, without
its `quantization_config`, and the tokenizer. The result is outputs/gpt_oss_20b/report.html.

Not run on the real weights yet: all sizes below are computed from the published ones (20,914,757,184 parameters), and
no time is promised.

- Units: `routed` 24 x 32 x 2,880 = 2,211,840, `expert` 24 x 32 = 768. At epsilon 0.05 S(i) is the top 110,592
  neurons, and ties.
- Arrays: 4,428,288 bytes an instruction before compression, 5.3 GB for the 1,200 of HexaInst.
- Memory of a device: 41.8 GB of parameters in bfloat16 with `pmap`; with `--config.execution.placement=mesh:N`, by N:
  22.1 GB (2), 12.2 GB (4), 7.3 GB (8). To these come about 1 GB for activations at
  8,192 token slots and 4.4 MB of counts for each text of a batch.
- Memory of the host: convert holds 1 GB of parameters at a time, or the largest stack of layers, 12.2 GB.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The config of the model."""
    config = default_config()
    config.pairs = ConfigDict({
        "gpt-oss-20b": {"tuned": "gpt-oss-20b-bf16"},
    })  # fmt: skip
    config.execution.batch_tokens = 8192
    return config
