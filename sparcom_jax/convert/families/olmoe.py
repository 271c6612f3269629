"""OLMoE (Muennighoff et al. 2024): routed experts in every layer, norms over all queries and all keys."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    EXPERTS,
    MODEL,
    PRE_NORMS,
    QK_NORMS,
    SHARED_FIELDS,
    Family,
    check_experts,
    decoder_config,
    layers,
)
from sparcom_jax.models.config import DecoderConfig, Experts


def translate(hf: Any) -> DecoderConfig:
    """Every layer is an MoE layer; an expert is as wide as `intermediate_size`."""
    check_experts(hf.num_experts_per_tok, hf.num_experts)
    experts = Experts(hf.num_experts, hf.num_experts_per_tok, hf.intermediate_size, bool(hf.norm_topk_prob))
    return decoder_config(hf, layers=layers(hf, (experts,) * hf.num_hidden_layers), qk_norm="all",
                          qkv_clip=hf.clip_qkv or 0.0)  # fmt: skip


OLMOE = Family(
    (SHARED_FIELDS - {"head_dim"}) | {
        "attention_bias", "clip_qkv", "norm_topk_prob", "num_experts", "num_experts_per_tok",
    },
    translate, PRE_NORMS | ATTENTION | QK_NORMS | EXPERTS, MODEL,
)  # fmt: skip
