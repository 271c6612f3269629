"""DeepSeek-V2 (DeepSeek-AI 2024): latent attention, shared experts, routing within groups, dense first layers."""

from typing import Any

from sparcom_jax.convert.families.family import (
    AS_IS,
    EXPERTS,
    MLP,
    MODEL,
    OWN_CODE,
    PRE_NORMS,
    SHARED_FIELDS,
    TRANSPOSED,
    Family,
    Names,
    check_experts,
    decoder_config,
    layers,
)
from sparcom_jax.convert.rope import read_rope, yarn_magnitude
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig, DenseMLP, Experts, Latent

LATENT_ATTENTION: Names = {
    "attention/q_a/kernel": ("self_attn.q_a_proj.weight", TRANSPOSED),
    "attention/q_a/bias": ("self_attn.q_a_proj.bias", AS_IS),
    "attention/q_norm/scale": ("self_attn.q_a_layernorm.weight", AS_IS),
    "attention/kv_a/kernel": ("self_attn.kv_a_proj_with_mqa.weight", TRANSPOSED),
    "attention/kv_a/bias": ("self_attn.kv_a_proj_with_mqa.bias", AS_IS),
    "attention/kv_norm/scale": ("self_attn.kv_a_layernorm.weight", AS_IS),
    "attention/kv/kernel": ("self_attn.kv_b_proj.weight", TRANSPOSED),
    "attention/o/kernel": ("self_attn.o_proj.weight", TRANSPOSED),
    "attention/o/bias": ("self_attn.o_proj.bias", AS_IS),
    "attention/q_b/kernel": ("self_attn.q_b_proj.weight", TRANSPOSED),
    "attention/q/kernel": ("self_attn.q_proj.weight", TRANSPOSED),
}
SHARED_EXPERT: Names = {
    "moe/shared/gate/kernel": ("mlp.shared_experts.gate_proj.weight", TRANSPOSED),
    "moe/shared/up/kernel": ("mlp.shared_experts.up_proj.weight", TRANSPOSED),
    "moe/shared/down/kernel": ("mlp.shared_experts.down_proj.weight", TRANSPOSED),
}


def translate(hf: Any) -> DecoderConfig:
    """The first `first_k_dense_replace` layers are dense."""
    dense = min(hf.first_k_dense_replace, hf.num_hidden_layers)
    head_size = hf.qk_nope_head_dim + hf.qk_rope_head_dim
    scale = head_size**-0.5
    if hf.rope_parameters.get("rope_type", "default") != "default" and hf.rope_parameters.get("mscale_all_dim"):
        scale *= yarn_magnitude(float(hf.rope_parameters["factor"]), float(hf.rope_parameters["mscale_all_dim"])) ** 2
    routed = hf.num_hidden_layers - dense
    mlps: list[DenseMLP | Experts] = [DenseMLP(hf.intermediate_size)] * dense
    mlps += [_experts(hf)] * routed if routed else []
    return decoder_config(
        hf,
        layers=layers(hf, mlps, Latent(hf.q_lora_rank or 0, hf.kv_lora_rank, hf.qk_nope_head_dim, hf.v_head_dim)),
        head_size=head_size,
        kv_heads=hf.num_attention_heads,
        ropes=(read_rope(hf.rope_parameters, hf.qk_rope_head_dim, hf.max_position_embeddings),),
        score_scale=scale,
    )


def _experts(hf: Any) -> Experts:
    check_experts(hf.num_experts_per_tok, hf.n_routed_experts)
    if hf.topk_method not in ("greedy", "group_limited_greedy"):
        raise InputError(f"field 'topk_method' = {hf.topk_method!r} is not handled by the decoder")
    grouped = hf.topk_method == "group_limited_greedy"
    if grouped and (hf.n_routed_experts % hf.n_group or not 0 < hf.topk_group <= hf.n_group):
        raise InputError(
            f"n_group {hf.n_group} and topk_group {hf.topk_group} do not fit {hf.n_routed_experts} experts"
        )
    return Experts(
        hf.n_routed_experts, hf.num_experts_per_tok, hf.moe_intermediate_size, normalize=False,
        scale=hf.routed_scaling_factor, groups=hf.n_group if grouped else 1,
        groups_per_token=hf.topk_group if grouped else 1,
        shared_width=hf.moe_intermediate_size * (hf.n_shared_experts or 0),
    )  # fmt: skip


DEEPSEEK_V2 = Family(
    SHARED_FIELDS | OWN_CODE | {  # head_dim and qk_head_dim follow from the sizes below
        "attention_bias", "first_k_dense_replace", "kv_lora_rank", "moe_intermediate_size", "n_group",
        "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "q_lora_rank", "qk_head_dim", "qk_nope_head_dim",
        "qk_rope_head_dim", "routed_scaling_factor", "topk_group", "topk_method", "v_head_dim",
    },
    translate, PRE_NORMS | LATENT_ATTENTION | MLP | EXPERTS | SHARED_EXPERT, MODEL,
    # The family's own code scales normalised weights differently; transformers ignores the field.
    neutral={"mlp_bias": False, "moe_layer_freq": 1, "norm_topk_prob": False, "scoring_func": "softmax"},
)  # fmt: skip
