"""Gemma 3, the text model (Gemma Team 2025): five layers with a window and wavelengths of their own to one without."""

from dataclasses import replace
from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    FOUR_NORMS,
    MLP,
    MODEL,
    QK_NORMS,
    SHARED_FIELDS,
    Family,
    decoder_config,
    layers,
)
from sparcom_jax.convert.rope import read_rope
from sparcom_jax.models.config import DecoderConfig, DenseMLP

ROPES = ("full_attention", "sliding_attention")


def translate(hf: Any) -> DecoderConfig:
    """Layers with a window have the second rope, the others the first."""
    usual = layers(hf, (DenseMLP(hf.intermediate_size),) * hf.num_hidden_layers)
    return decoder_config(
        hf,
        layers=tuple(
            replace(one, mixer=replace(one.mixer, rope=ROPES.index(kind)))
            for one, kind in zip(usual, hf.layer_types, strict=True)
        ),
        ropes=tuple(read_rope(hf.rope_parameters[kind], hf.head_dim, hf.max_position_embeddings) for kind in ROPES),
        norm="rms_plus_one",
        post_norm=True,
        qk_norm="head",
        embedding_scale=hf.hidden_size**0.5,
        score_scale=hf.query_pre_attn_scalar**-0.5,
        logit_cap=hf.final_logit_softcapping or 0.0,
    )


GEMMA3 = Family(
    SHARED_FIELDS | {
        "_sliding_window_pattern", "attention_bias", "final_logit_softcapping", "hidden_activation", "layer_types",
        "query_pre_attn_scalar", "rope_local_base_freq", "sliding_window", "sliding_window_pattern",
    },
    translate, FOUR_NORMS | ATTENTION | QK_NORMS | MLP, MODEL, neutral={"use_bidirectional_attention": False},
)  # fmt: skip
