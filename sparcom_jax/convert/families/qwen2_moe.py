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
from sparcom_jax.models.config import DecoderConfig, DenseMLP, Experts

SHARED_EXPERT: Names = {
    "moe/shared/gate/kernel": ("mlp.shared_expert.gate_proj.weight", TRANSPOSED),
    "moe/shared/up/kernel": ("mlp.shared_expert.up_proj.weight", TRANSPOSED),
    "moe/shared/down/kernel": ("mlp.shared_expert.down_proj.weight", TRANSPOSED),
    "moe/shared_gate/kernel": ("mlp.shared_expert_gate.weight", TRANSPOSED),
}


def dense_or_routed(hf: Any, **shared: Any) -> list[DenseMLP | Experts]:
    """The MLP of each layer: every `decoder_sparse_step`-th one has experts, unless `mlp_only_layers` names it.

    Args:
      hf: transformers' config object.
      shared: fields of `Experts` that describe the shared expert.
    """
    routed = [
        layer not in hf.mlp_only_layers and hf.num_experts > 0 and (layer + 1) % hf.decoder_sparse_step == 0
        for layer in range(hf.num_hidden_layers)
    ]
    dense = DenseMLP(hf.intermediate_size)
    if not any(routed):
        return [dense] * len(routed)
    check_experts(hf.num_experts_per_tok, hf.num_experts)
    normalize = bool(hf.norm_topk_prob)
    experts = Experts(hf.num_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, normalize, **shared)
    return [experts if one else dense for one in routed]


def translate(hf: Any) -> DecoderConfig:
    """The biases of queries, keys and values have a field of their own."""
    mlps = dense_or_routed(hf, shared_width=hf.shared_expert_intermediate_size, shared_gated=True)
    return decoder_config(hf, layers=layers(hf, mlps), qkv_bias=bool(hf.qkv_bias), output_bias=False)


QWEN2_MOE = Family(
    SHARED_FIELDS | WINDOW_FIELDS | {
        "decoder_sparse_step", "mlp_only_layers", "moe_intermediate_size", "norm_topk_prob", "num_experts",
        "num_experts_per_tok", "qkv_bias", "shared_expert_intermediate_size",
    },
    translate, PRE_NORMS | ATTENTION | MLP | EXPERTS | SHARED_EXPERT, MODEL,
)  # fmt: skip
