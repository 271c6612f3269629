"""Gemma 2 (Gemma Team 2024): four norms a layer, squashed scores and logits, windows in every other layer."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    FOUR_NORMS,
    MLP,
    MODEL,
    SHARED_FIELDS,
    Family,
    decoder_config,
)
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """Embeddings are scaled by the root of the width; scores by a constant of their own."""
    return decoder_config(
        hf,
        norm="rms_plus_one",
        post_norm=True,
        embedding_scale=hf.hidden_size**0.5,
        score_scale=hf.query_pre_attn_scalar**-0.5,
        score_cap=hf.attn_logit_softcapping or 0.0,
        logit_cap=hf.final_logit_softcapping or 0.0,
    )


GEMMA2 = Family(
    SHARED_FIELDS | {
        "attention_bias", "attn_logit_softcapping", "final_logit_softcapping", "hidden_activation", "layer_types",
        "query_pre_attn_scalar", "sliding_window",
    },
    translate, FOUR_NORMS | ATTENTION | MLP, MODEL, neutral={"use_bidirectional_attention": False},
)  # fmt: skip
