"""Qwen3 (Yang et al. 2025): queries and keys pass a norm per head."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    MLP,
    MODEL,
    PRE_NORMS,
    QK_NORMS,
    SHARED_FIELDS,
    WINDOW_FIELDS,
    Family,
    decoder_config,
)
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """As Llama, but for the norms of queries and keys."""
    return decoder_config(hf, qk_norm="head")


QWEN3 = Family(
    SHARED_FIELDS | WINDOW_FIELDS | {"attention_bias"}, translate, PRE_NORMS | ATTENTION | QK_NORMS | MLP, MODEL
)
