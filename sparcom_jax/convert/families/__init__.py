"""The model families, by `model_type` of config.json."""

from sparcom_jax.convert.families.deepseek_v2 import DEEPSEEK_V2
from sparcom_jax.convert.families.family import Family
from sparcom_jax.convert.families.gemma2 import GEMMA2
from sparcom_jax.convert.families.gemma3 import GEMMA3
from sparcom_jax.convert.families.gpt_neox import GPT_NEOX
from sparcom_jax.convert.families.gpt_oss import GPT_OSS
from sparcom_jax.convert.families.llama import LLAMA
from sparcom_jax.convert.families.mistral import MISTRAL
from sparcom_jax.convert.families.mixtral import MIXTRAL
from sparcom_jax.convert.families.olmo2 import OLMO2
from sparcom_jax.convert.families.olmoe import OLMOE
from sparcom_jax.convert.families.phi3 import PHI3
from sparcom_jax.convert.families.qwen2 import QWEN2
from sparcom_jax.convert.families.qwen2_moe import QWEN2_MOE
from sparcom_jax.convert.families.qwen3 import QWEN3
from sparcom_jax.convert.families.qwen3_moe import QWEN3_MOE

FAMILIES: dict[str, Family] = {
    "llama": LLAMA,
    "mistral": MISTRAL,
    "qwen2": QWEN2,
    "qwen3": QWEN3,
    "gemma2": GEMMA2,
    "gemma3_text": GEMMA3,
    "phi3": PHI3,
    "olmo2": OLMO2,
    "gpt_neox": GPT_NEOX,
    "mixtral": MIXTRAL,
    "qwen2_moe": QWEN2_MOE,
    "qwen3_moe": QWEN3_MOE,
    "olmoe": OLMOE,
    "deepseek_v2": DEEPSEEK_V2,
    "gpt_oss": GPT_OSS,
}
