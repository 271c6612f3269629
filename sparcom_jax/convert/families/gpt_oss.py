"""gpt-oss (OpenAI 2025): sinks, windows in every other layer, a clamped gate, biases at router and experts."""

from typing import Any

from sparcom_jax.convert.families.family import (
    AS_IS,
    ATTENTION,
    MODEL,
    PRE_NORMS,
    SHARED_FIELDS,
    TRANSPOSED,
    Family,
    Names,
    Part,
    check_experts,
    decoder_config,
    layers,
)
from sparcom_jax.models.config import Clamp, DecoderConfig, Experts

SWIGLU_ALPHA = 1.702
"""Slope of the gate where neither the config nor transformers names it: older versions have it in their code."""


def translate(hf: Any) -> DecoderConfig:
    """Every layer is an MoE layer; an expert is as wide as `intermediate_size`."""
    check_experts(hf.num_experts_per_tok, hf.num_local_experts)
    experts = Experts(hf.num_local_experts, hf.num_experts_per_tok, hf.intermediate_size, normalize=True, bias=True,
                      clamp=Clamp(hf.swiglu_limit, getattr(hf, "swiglu_alpha", SWIGLU_ALPHA)))  # fmt: skip
    return decoder_config(hf, layers=layers(hf, (experts,) * hf.num_hidden_layers), sinks=True,
                          norm="rms_float32")  # fmt: skip


def _every_other(first: int, *, bias: bool = False) -> Part:
    """Gate and up projections lie in turns on the last axis."""

    def shape(config: DecoderConfig) -> tuple[int, ...]:
        assert config.experts is not None
        return (config.experts.count, *(() if bias else (config.width,)), 2 * config.experts.width)

    return Part(shape, lambda config: slice(first, None, 2), axis=1 if bias else 2, transposed=AS_IS)


EXPERTS: Names = {
    "attention/sinks": ("self_attn.sinks", AS_IS),
    "moe/router/kernel": ("mlp.router.weight", TRANSPOSED),
    "moe/router/bias": ("mlp.router.bias", AS_IS),
    "moe/routed/gate": ("mlp.experts.gate_up_proj", _every_other(0)),
    "moe/routed/up": ("mlp.experts.gate_up_proj", _every_other(1)),
    "moe/routed/down": ("mlp.experts.down_proj", AS_IS),
    "moe/routed/gate_bias": ("mlp.experts.gate_up_proj_bias", _every_other(0, bias=True)),
    "moe/routed/up_bias": ("mlp.experts.gate_up_proj_bias", _every_other(1, bias=True)),
    "moe/routed/down_bias": ("mlp.experts.down_proj_bias", AS_IS),
}

GPT_OSS = Family(
    SHARED_FIELDS | {
        "attention_bias", "layer_types", "num_experts_per_tok", "num_local_experts", "sliding_window", "swiglu_alpha",
        "swiglu_limit",
    },
    translate, PRE_NORMS | ATTENTION | EXPERTS, MODEL,
)  # fmt: skip
