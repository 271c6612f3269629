"""Mixtral (Jiang et al. 2024): routed experts in every layer, weights normalised, no shared expert."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    MODEL,
    PRE_NORMS,
    SHARED_FIELDS,
    TRANSPOSED,
    Family,
    Names,
    check_experts,
    decoder_config,
    layers,
)
from sparcom_jax.models.config import DecoderConfig, Experts

EXPERTS: Names = {
    "moe/router/kernel": ("block_sparse_moe.gate.weight", TRANSPOSED),
    "moe/routed/gate": ("block_sparse_moe.experts.{expert}.w1.weight", TRANSPOSED),
    "moe/routed/up": ("block_sparse_moe.experts.{expert}.w3.weight", TRANSPOSED),
    "moe/routed/down": ("block_sparse_moe.experts.{expert}.w2.weight", TRANSPOSED),
}


def translate(hf: Any) -> DecoderConfig:
    """Every layer is an MoE layer; an expert is as wide as `intermediate_size`."""
    check_experts(hf.num_experts_per_tok, hf.num_local_experts)
    experts = Experts(hf.num_local_experts, hf.num_experts_per_tok, hf.intermediate_size, normalize=True)
    return decoder_config(hf, layers=layers(hf, (experts,) * hf.num_hidden_layers))


MIXTRAL = Family(
    SHARED_FIELDS | {"num_experts_per_tok", "num_local_experts", "sliding_window"},
    translate, PRE_NORMS | ATTENTION | EXPERTS, MODEL,
)  # fmt: skip
