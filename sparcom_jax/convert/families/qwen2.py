"""Qwen2 and Qwen2.5 (Yang et al. 2024): biases at queries, keys and values; windows in upper layers, if anywhere."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    MLP,
    MODEL,
    PRE_NORMS,
    SHARED_FIELDS,
    WINDOW_FIELDS,
    Family,
    decoder_config,
)
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """The biases are no choice of the config."""
    return decoder_config(hf, qkv_bias=True, output_bias=False)


QWEN2 = Family(
    SHARED_FIELDS | WINDOW_FIELDS, translate, PRE_NORMS | ATTENTION | MLP, MODEL, neutral={"use_mrope": False}
)
