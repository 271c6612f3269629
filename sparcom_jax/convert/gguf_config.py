"""From the metadata of a GGUF file to the config.json of the model that it was made from.

Where llama.cpp has a constant instead of a key, so has this file, with the same value.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparcom_jax.convert.tensors import Tensors
from sparcom_jax.errors import InputError, first_of

Config = dict[str, Any]

# Keys of an architecture that say nothing which is not known from others.
WITHOUT_MEANING = {"attention.value_length", "attention.key_length_swa", "attention.value_length_swa",
                   "rope.dimension_count_swa", "rope.scaling.finetuned", "vocab_size"}  # fmt: skip
_SCALE_LAYERS = {"gemma2": 46, "gemma3": 62}
"""Layers of the one model of each family whose scores are scaled by width / heads instead of the head size."""


class Metadata:
    """The keys of a GGUF file, and which of them have been read."""

    def __init__(
        self, architecture: str, values: dict[str, Any], tensors: Tensors, rope_tensors: dict[str, np.ndarray]
    ) -> None:
        """Wraps what `open_gguf` read.

        Args:
          architecture: prefix of the keys that describe the model.
          values: all keys.
          tensors: the file's tensors.
          rope_tensors: those that hold factors of rotary frequencies.
        """
        prefix = f"{architecture}."
        self.architecture = architecture
        self.tensors = tensors
        self.rope_tensors = rope_tensors
        self._all = values
        self._own = {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
        self._used: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        """A key of the architecture, and its default where the file lacks it."""
        self._used.add(key)
        value = self._own.get(key, default)
        # Numbers are kept in float32; the decimal that they were written as is what a config.json has.
        return float(str(np.float32(value))) if isinstance(value, float) else value

    def need(self, key: str) -> Any:
        """A key that must be there.

        Raises:
          InputError: it is not.
        """
        if (value := self.get(key)) is None:
            raise InputError(f"key '{self.architecture}.{key}' is missing")
        return value

    def token(self, name: str) -> int | None:
        """A token id of the tokenizer."""
        value = self._all.get(f"tokenizer.ggml.{name}_token_id")
        return None if value is None else int(value)

    def require_all_used(self) -> None:
        """Refuses keys that nothing has read.

        Raises:
          InputError: it names them.
        """
        left = sorted(self._own.keys() - self._used - WITHOUT_MEANING)
        if left:
            named = [f"{self.architecture}.{key} = {self._own[key]!r}" for key in left]
            raise InputError(f"keys that are not handled: {first_of(named)}")


def _common(meta: Metadata, model_type: str) -> Config:
    heads, width = int(meta.need("attention.head_count")), int(meta.need("embedding_length"))
    if meta.get("attention.causal", True) is not True:
        raise InputError(f"key '{meta.architecture}.attention.causal' is false; the decoder's attention is causal")
    head_size = int(meta.get("attention.key_length") or meta.get("rope.dimension_count") or width // heads)
    config = {
        "model_type": model_type,
        "vocab_size": meta.tensors.shape("token_embd.weight")[0],
        "hidden_size": width,
        "intermediate_size": int(meta.get("feed_forward_length") or 0),
        "num_hidden_layers": int(meta.need("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": int(meta.get("attention.head_count_kv", heads)),
        "max_position_embeddings": int(meta.need("context_length")),
        "rms_norm_eps": meta.get("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": meta.get("rope.freq_base", 10000.0),
        "tie_word_embeddings": "output.weight" not in meta.tensors.names,
        "head_dim": head_size,
        "bos_token_id": meta.token("bos"),
        "eos_token_id": meta.token("eos"),
        "pad_token_id": meta.token("padding"),
    }
    if (turned := meta.get("rope.dimension_count", head_size)) != head_size:
        config["partial_rotary_factor"] = turned / head_size
    if scaling := _rope_scaling(meta):
        config["rope_scaling"] = scaling
    return config


def _rope_scaling(meta: Metadata) -> Config | None:
    kind = meta.get("rope.scaling.type", "none")
    factor, original = meta.get("rope.scaling.factor"), meta.get("rope.scaling.original_context_length")
    if meta.rope_tensors and meta.architecture not in ("llama", "phi3"):
        raise InputError(f"tensor {sorted(meta.rope_tensors)[0]!r} is not handled for {meta.architecture}")
    if "rope_freqs.weight" in meta.rope_tensors:
        # Llama 3.1: what its four numbers come to, a factor for every frequency.
        factors = [float(str(value)) for value in meta.rope_tensors["rope_freqs.weight"]]
        return {"rope_type": "longrope", "short_factor": factors, "long_factor": factors, "attention_factor": 1.0,
                "original_max_position_embeddings": int(meta.need("context_length"))}  # fmt: skip
    if kind == "none" or (factor == 1.0 and kind == "linear"):
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    if kind == "yarn" and factor is not None and original is not None:
        fast, slow = meta.get("rope.scaling.yarn_beta_fast", 32.0), meta.get("rope.scaling.yarn_beta_slow", 1.0)
        if meta.get("rope.scaling.attn_factor", 1.0) != 1.0 or meta.get("rope.scaling.yarn_ext_factor", 1.0) != 1.0:
            raise InputError(f"key '{meta.architecture}.rope.scaling.attn_factor' is not handled for yarn")
        return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": int(original),
                "beta_fast": fast, "beta_slow": slow}  # fmt: skip
    raise InputError(f"key '{meta.architecture}.rope.scaling.type' {kind!r} is not handled")


def _has(meta: Metadata, name: str) -> bool:
    return f"blk.0.{name}" in meta.tensors.names


def _llama(meta: Metadata) -> Config:
    if not meta.get("expert_count"):
        biases = {"attention_bias": _has(meta, "attn_q.bias"), "mlp_bias": _has(meta, "ffn_gate.bias")}
        return _common(meta, "llama") | biases
    return _common(meta, "mixtral") | {
        "num_local_experts": int(meta.need("expert_count")),
        "num_experts_per_tok": int(meta.need("expert_used_count")),
        "sliding_window": None,
    }


def _qwen2(meta: Metadata) -> Config:
    return _common(meta, "qwen2")


def _qwen3(meta: Metadata) -> Config:
    return _common(meta, "qwen3") | {"attention_bias": _has(meta, "attn_q.bias")}


def _gemma2(meta: Metadata) -> Config:
    return _gemma(meta, "gemma2") | {
        "attn_logit_softcapping": meta.get("attn_logit_softcapping"),
        "final_logit_softcapping": meta.get("final_logit_softcapping"),
    }


def _gemma3(meta: Metadata) -> Config:
    config = _gemma(meta, "gemma3_text")
    pattern = meta.get("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        config["layer_types"] = ["sliding_attention" if one else "full_attention" for one in pattern]
    else:
        config["sliding_window_pattern"] = int(pattern)
    config["final_logit_softcapping"] = meta.get("final_logit_softcapping")
    config["rope_local_base_freq"] = meta.get("rope.freq_base_swa", 10000.0)
    return config


def _gemma(meta: Metadata, model_type: str) -> Config:
    config = _common(meta, model_type)
    widest = config["num_hidden_layers"] == _SCALE_LAYERS[meta.architecture]
    scalar = config["hidden_size"] // config["num_attention_heads"] if widest else config["head_dim"]
    return config | {
        "hidden_activation": "gelu_pytorch_tanh",
        "sliding_window": int(meta.need("attention.sliding_window")),
        "query_pre_attn_scalar": scalar,
    }


def _phi3(meta: Metadata) -> Config:
    factors = {kind: meta.rope_tensors.get(f"rope_factors_{kind}.weight") for kind in ("short", "long")}
    original = meta.get("rope.scaling.original_context_length")
    meta.get("rope.scaling.attn_factor")  # follows from the two lengths
    config = _common(meta, "phi3")
    config = _without(config, "head_dim") | {
        "sliding_window": int(meta.get("attention.sliding_window") or 0) or None,
        "original_max_position_embeddings": int(original or config["max_position_embeddings"]),
    }
    if factors["short"] is not None and factors["long"] is not None:
        config["rope_scaling"] = {"type": "longrope"} | {
            f"{kind}_factor": [float(str(value)) for value in values]
            for kind, values in factors.items()
            if values is not None
        }
    return config


def _olmo2(meta: Metadata) -> Config:
    if meta.get("attention.sliding_window"):
        raise InputError("key 'olmo2.attention.sliding_window': OLMo 3 is not supported")
    return _without(_common(meta, "olmo2"), "head_dim")


def _olmoe(meta: Metadata) -> Config:
    config = _without(_common(meta, "olmoe"), "head_dim")
    meta.get("expert_feed_forward_length")  # is feed_forward_length
    return config | _experts(meta) | {
        "norm_topk_prob": bool(meta.get("expert_weights_norm", False)),
        "clip_qkv": meta.get("attention.clamp_kqv") or None,
    }  # fmt: skip


def _qwen2moe(meta: Metadata) -> Config:
    return _without(_common(meta, "qwen2_moe"), "head_dim") | _experts(meta) | {
        "moe_intermediate_size": int(meta.need("expert_feed_forward_length")),
        "shared_expert_intermediate_size": int(meta.need("expert_shared_feed_forward_length")),
        "norm_topk_prob": bool(meta.get("expert_weights_norm", False)),
        "qkv_bias": _has(meta, "attn_q.bias"),
    }  # fmt: skip


def _qwen3moe(meta: Metadata) -> Config:
    return _common(meta, "qwen3_moe") | _experts(meta) | {
        "moe_intermediate_size": int(meta.need("expert_feed_forward_length")),
        "norm_topk_prob": bool(meta.get("expert_weights_norm", True)),
        "attention_bias": _has(meta, "attn_q.bias"),
    }  # fmt: skip


def _experts(meta: Metadata) -> Config:
    return {"num_experts": int(meta.need("expert_count")), "num_experts_per_tok": int(meta.need("expert_used_count"))}


def _deepseek2(meta: Metadata) -> Config:
    if meta.get("expert_gating_func", 1) != 1:
        raise InputError("key 'deepseek2.expert_gating_func': only softmax is handled (DeepSeek-V2, not V3)")
    turned = int(meta.need("rope.dimension_count"))
    rank = int(meta.need("attention.kv_lora_rank"))
    # Files of either kind: with all keys and values of a head, or with the latent as one key for all heads.
    key = int(meta.get("attention.key_length_mla") or meta.need("attention.key_length"))
    value = int(meta.get("attention.value_length_mla") or meta.need("attention.value_length"))
    weight = meta.get("rope.scaling.yarn_log_multiplier")
    config = _without(_common(meta, "deepseek_v2"), "head_dim", "partial_rotary_factor")
    groups, used = int(meta.get("expert_group_count") or 1), int(meta.get("expert_group_used_count") or 1)
    experts = int(meta.need("expert_count"))
    if experts == 160 and groups == 1:  # older files of DeepSeek-V2 leave its 8 groups out
        raise InputError("key 'deepseek2.expert_group_count' is missing: DeepSeek-V2 routes within groups of experts")
    if weight is not None and "rope_scaling" in config:
        config["rope_scaling"] |= dict.fromkeys(("mscale", "mscale_all_dim"), round(10 * weight, 6))
    return config | {
        "num_key_value_heads": config["num_attention_heads"],
        "first_k_dense_replace": int(meta.get("leading_dense_block_count") or 0),
        "q_lora_rank": int(meta.get("attention.q_lora_rank") or 0) or None,
        "kv_lora_rank": rank,
        "qk_rope_head_dim": turned,
        "qk_nope_head_dim": key - turned,
        "v_head_dim": value,
        "n_routed_experts": experts,
        "num_experts_per_tok": int(meta.need("expert_used_count")),
        "n_shared_experts": int(meta.get("expert_shared_count") or 0),
        "moe_intermediate_size": int(meta.need("expert_feed_forward_length")),
        "routed_scaling_factor": meta.get("expert_weights_scale", 1.0),
        "norm_topk_prob": bool(meta.get("expert_weights_norm", False)),
        "n_group": groups,
        "topk_group": used,
        "topk_method": "group_limited_greedy" if groups > 1 else "greedy",
    }


def _gpt_oss(meta: Metadata) -> Config:
    config = _common(meta, "gpt_oss")
    if "rope_scaling" in config:
        config["rope_scaling"] |= {"truncate": False}
    return config | {
        "intermediate_size": int(meta.need("expert_feed_forward_length")),
        "num_local_experts": int(meta.need("expert_count")),
        "num_experts_per_tok": int(meta.need("expert_used_count")),
        "sliding_window": int(meta.need("attention.sliding_window")),
        "attention_bias": _has(meta, "attn_q.bias"),
        "swiglu_limit": 7.0,
    }


def _without(config: Config, *fields: str) -> Config:
    return {name: value for name, value in config.items() if name not in fields}


CONFIGS: dict[str, Callable[[Metadata], Config]] = {
    "llama": _llama,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "gemma2": _gemma2,
    "gemma3": _gemma3,
    "phi3": _phi3,
    "olmo2": _olmo2,
    "olmoe": _olmoe,
    "qwen2moe": _qwen2moe,
    "qwen3moe": _qwen3moe,
    "deepseek2": _deepseek2,
    "gpt-oss": _gpt_oss,
}
"""By llama.cpp's name of the architecture."""
