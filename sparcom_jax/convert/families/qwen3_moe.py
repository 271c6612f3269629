"""Qwen3-MoE (Yang et al. 2025): as Qwen3, with routed experts, dense layers among them, no shared expert."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    EXPERTS,
    MLP,
    MODEL,
    PRE_NORMS,
    QK_NORMS,
    SHARED_FIELDS,
    WINDOW_FIELDS,
    Family,
    decoder_config,
    layers,
)
from sparcom_jax.convert.families.qwen2_moe import dense_or_routed
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """As Qwen3, but for the experts."""
    return decoder_config(hf, layers=layers(hf, dense_or_routed(hf)), qk_norm="head")


QWEN3_MOE = Family(
    SHARED_FIELDS | (WINDOW_FIELDS - {"layer_types"}) | {
        "attention_bias", "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob",
        "num_experts", "num_experts_per_tok", "num_local_experts",
    },
    translate, PRE_NORMS | ATTENTION | QK_NORMS | MLP | EXPERTS, MODEL,
)  # fmt: skip
