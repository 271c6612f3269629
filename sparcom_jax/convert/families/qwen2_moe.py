"""Qwen1.5-MoE and Qwen2-MoE (Qwen Team 2024): routed experts and a gated shared expert, dense layers among them."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    EXPERTS,
    MLP,
    MODEL,
    PRE_NORMS,
    SHARED_FIELDS,
    TRANSPOSED,
    WINDOW_FIELDS,
    Family,
    Names,
    check_experts,
    decoder_config,
    layers,
)
from sparcom_jax.models.config import DecoderConfig, Experts, LayerKind

SHARED_EXPERT: Names = {
    "moe/shared/gate/kernel": ("mlp.shared_expert.gate_proj.weight", TRANSPOSED),
    "moe/shared/up/kernel": ("mlp.shared_expert.up_proj.weight", TRANSPOSED),
    "moe/shared/down/kernel": ("mlp.shared_expert.down_proj.weight", TRANSPOSED),
    "moe/shared_gate/kernel": ("mlp.shared_expert_gate.weight", TRANSPOSED),
}


def layer_kinds(hf: Any) -> tuple[LayerKind, ...]:
    """Every `decoder_sparse_step`-th layer has experts, unless `mlp_only_layers` names it."""
    return tuple(
        "moe"
        if layer not in hf.mlp_only_layers and hf.num_experts > 0 and (layer + 1) % hf.decoder_sparse_step == 0
        else "dense"
        for layer in range(hf.num_hidden_layers)
    )


def routed_experts(hf: Any, kinds: tuple[LayerKind, ...], **shared: Any) -> Experts | None:
    """A model without MoE layers has no experts at all."""
    if "moe" not in kinds:
        return None
    check_experts(hf.num_experts_per_tok, hf.num_experts)
    normalize = bool(hf.norm_topk_prob)
    return Experts(hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, normalize, **shared)


def translate(hf: Any) -> DecoderConfig:
    """The biases of queries, keys and values have a field of their own."""
    kinds = layer_kinds(hf)
    experts = routed_experts(hf, kinds, shared_width=hf.shared_expert_intermediate_size, shared_gated=True)
    return decoder_config(hf, layers=layers(hf, kinds), experts=experts, qkv_bias=bool(hf.qkv_bias), output_bias=False)


QWEN2_MOE = Family(
    SHARED_FIELDS | WINDOW_FIELDS | {
        "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "num_experts",
        "num_experts_per_tok", "qkv_bias", "shared_expert_intermediate_size",
    },
    translate, PRE_NORMS | ATTENTION | MLP | EXPERTS | SHARED_EXPERT, MODEL,
)  # fmt: skip
