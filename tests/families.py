"""Configs that together exercise every field that a family handles."""

from typing import Any

ROPE_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
ROPE_LINEAR = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
ROPE_DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
ROPE_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 16.0, "original_max_position_embeddings": 64}
ROPE_LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 64,
    "short_factor": [1.0, 1.1, 1.2, 1.4, 1.7, 2.0], "long_factor": [1.0, 1.5, 2.5, 4.0, 7.0, 12.0],
}  # fmt: skip
WINDOWS = {"use_sliding_window": True, "sliding_window": 16}
DENSE_FIRST = {"mlp_only_layers": [0], "num_key_value_heads": 2}

CASES: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "mha": {},
        "gqa": {"num_key_value_heads": 2, "head_dim": 20},
        "mqa_tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "mlp_bias": True},
        "rope_linear": {"rope_parameters": ROPE_LINEAR},
        "rope_llama3": {"rope_parameters": ROPE_LLAMA3, "head_dim": 32},
        "rope_dynamic": {"rope_parameters": ROPE_DYNAMIC, "max_position_embeddings": 64},
        "rope_yarn": {"rope_parameters": ROPE_YARN},
        "gelu": {"hidden_act": "gelu", "rms_norm_eps": 1e-3},
        "relu": {"hidden_act": "relu"},
        "gelu_tanh": {"hidden_act": "gelu_pytorch_tanh"},
    },
    "mistral": {
        "window": {"sliding_window": 16, "num_key_value_heads": 2},
        "no_window": {"sliding_window": None, "head_dim": 20},
        "tied": {"sliding_window": 50, "tie_word_embeddings": True, "rope_parameters": ROPE_YARN},
    },
    "qwen2": {
        "plain": {"num_key_value_heads": 2},
        "windows": WINDOWS | {"max_window_layers": 1, "tie_word_embeddings": True},
        "yarn": {"rope_parameters": ROPE_YARN | {"attention_factor": 1.3, "beta_fast": 20.0, "beta_slow": 2.0}},
    },
    "qwen3": {
        "plain": {"num_key_value_heads": 2},
        "windows": WINDOWS | {"max_window_layers": 2, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "head_dim": 24, "rope_parameters": ROPE_YARN},
    },
    "gemma2": {
        "plain": {"num_key_value_heads": 2},
        "no_caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None, "hidden_activation": "silu"},
        "untied": {"tie_word_embeddings": False, "attention_bias": True, "num_hidden_layers": 4,
                   "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    },
    "gemma3_text": {
        "plain": {"num_key_value_heads": 2, "num_hidden_layers": 4, "sliding_window_pattern": 2},
        # In the default pattern layer 6 is the first without a window.
        "deep": {"num_hidden_layers": 7},
        "ropes": {
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {"full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                                "sliding_attention": {"rope_type": "default", "rope_theta": 500.0}},
        },
        "cap": {"final_logit_softcapping": 20.0, "attention_bias": True, "tie_word_embeddings": False},
    },
    "phi3": {
        "plain": {"num_key_value_heads": 2},
        "window": {"sliding_window": 16, "rms_norm_eps": 1e-3},
        "longrope": {"rope_parameters": ROPE_LONG, "original_max_position_embeddings": 64},
        "partial": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
                    "tie_word_embeddings": True},
    },
    "olmo2": {
        "plain": {},
        "gqa": {"num_key_value_heads": 2, "tie_word_embeddings": True},
        "biases": {"attention_bias": True, "rope_parameters": ROPE_YARN},
    },
    "gpt_neox": {
        "parallel": {},
        "sequential": {"use_parallel_residual": False, "layer_norm_eps": 1e-3},
        "no_bias": {"attention_bias": False, "hidden_act": "gelu_fast", "tie_word_embeddings": True},
        "rotary": {"rope_parameters": ROPE_LINEAR | {"partial_rotary_factor": 0.5}},
    },
    "mixtral": {
        "plain": {"num_key_value_heads": 2},
        "window": {"sliding_window": 16, "head_dim": 20, "num_experts_per_tok": 3},
        "tied": {"tie_word_embeddings": True, "num_local_experts": 4, "num_hidden_layers": 2},
    },
    "qwen2_moe": {
        "plain": {"num_hidden_layers": 2},
        "normalized": {"norm_topk_prob": True, "num_hidden_layers": 2},
        "dense_first": DENSE_FIRST,
        "sparse_step": {"decoder_sparse_step": 2, "num_hidden_layers": 4, "qkv_bias": False},
        "top_all": {"num_experts_per_tok": 8, "num_hidden_layers": 2, "tie_word_embeddings": True},
        "windows": WINDOWS | {"max_window_layers": 1},
    },
    "qwen3_moe": {
        "plain": {"num_hidden_layers": 2},
        "dense_first": DENSE_FIRST | {"norm_topk_prob": True},
        "window": WINDOWS | {"attention_bias": True, "decoder_sparse_step": 2},
    },
    "olmoe": {
        "plain": {"num_hidden_layers": 2},
        "clip": {"clip_qkv": 0.5, "num_key_value_heads": 2},
        "normalized": {"norm_topk_prob": True, "attention_bias": True, "tie_word_embeddings": True},
    },
    "deepseek_v2": {
        "plain": {},
        "lite": {"q_lora_rank": None, "routed_scaling_factor": 2.5, "first_k_dense_replace": 2},
        "groups": {"topk_method": "group_limited_greedy", "n_group": 4, "topk_group": 2, "attention_bias": True},
        "yarn": {"rope_parameters": ROPE_YARN | {"mscale": 0.7, "mscale_all_dim": 0.5}, "tie_word_embeddings": True},
    },
    "gpt_oss": {
        "plain": {"num_key_value_heads": 2},
        "limits": {"swiglu_limit": 0.5, "swiglu_alpha": 1.2, "num_experts_per_tok": 3, "tie_word_embeddings": True},
        "no_bias": {"attention_bias": False, "layer_types": ["full_attention", "sliding_attention", "full_attention"],
                    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    },
}  # fmt: skip

MLPS = [
    *((family, next(iter(cases))) for family, cases in CASES.items()),
    *(("llama", case) for case in ("biases", "gelu", "relu")), ("gpt_neox", "no_bias"), ("qwen2_moe", "dense_first"),
    ("deepseek_v2", "groups"), ("gpt_oss", "limits"),
]  # fmt: skip
"""One case of every family, and those whose MLPs and experts differ from it."""
