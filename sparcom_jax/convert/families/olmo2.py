"""OLMo 2 (OLMo Team 2024): norms after attention and MLP only, and over all queries and all keys."""

from typing import Any

from sparcom_jax.convert.families.family import (
    AS_IS,
    ATTENTION,
    MLP,
    MODEL,
    QK_NORMS,
    SHARED_FIELDS,
    Family,
    Names,
    decoder_config,
)
from sparcom_jax.models.config import DecoderConfig

POST_NORMS: Names = {
    "attention_post_norm/scale": ("post_attention_layernorm.weight", AS_IS),
    "mlp_post_norm/scale": ("post_feedforward_layernorm.weight", AS_IS),
}


def translate(hf: Any) -> DecoderConfig:
    """Attention and MLP read the residual stream as it is."""
    return decoder_config(hf, norm="rms_float32", pre_norm=False, post_norm=True, qk_norm="all")


OLMO2 = Family(SHARED_FIELDS | {"attention_bias"}, translate, POST_NORMS | ATTENTION | QK_NORMS | MLP, MODEL)
