"""Phi-3 and Phi-4 mini (Abdin et al. 2024): projections that share a tensor, heads that are turned in part."""

from typing import Any

from sparcom_jax.convert.families.family import (
    ATTENTION,
    MLP,
    MODEL,
    OWN_CODE,
    PRE_NORMS,
    SHARED_FIELDS,
    Family,
    Names,
    Part,
    decoder_config,
)
from sparcom_jax.convert.rope import read_rope
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """As Llama, but for the part of a head that is turned."""
    head_size = hf.hidden_size // hf.num_attention_heads
    rope = read_rope(hf.rope_parameters, head_size, hf.max_position_embeddings, partial=True)
    return decoder_config(hf, head_size=head_size, ropes=(rope,))


def _qkv(which: int) -> Part:
    def rows(config: DecoderConfig) -> slice:
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        ends = (0, queries, queries + keys, queries + 2 * keys)
        return slice(ends[which], ends[which + 1])

    return Part(lambda c: ((c.heads + 2 * c.kv_heads) * c.head_size, c.width), rows)


def _half(which: int) -> Part:
    return Part(lambda c: (2 * c.mlp_width, c.width), lambda c: slice(which * c.mlp_width, (which + 1) * c.mlp_width))


FUSED: Names = {
    "attention/q/kernel": ("self_attn.qkv_proj.weight", _qkv(0)),
    "attention/k/kernel": ("self_attn.qkv_proj.weight", _qkv(1)),
    "attention/v/kernel": ("self_attn.qkv_proj.weight", _qkv(2)),
    "mlp/gate/kernel": ("mlp.gate_up_proj.weight", _half(0)),
    "mlp/up/kernel": ("mlp.gate_up_proj.weight", _half(1)),
}

PHI3 = Family(
    (SHARED_FIELDS - {"head_dim"}) | OWN_CODE | {
        "original_max_position_embeddings", "partial_rotary_factor", "sliding_window",
    },
    translate, PRE_NORMS | ATTENTION | MLP | FUSED, MODEL, neutral={"attention_bias": False},
)  # fmt: skip
