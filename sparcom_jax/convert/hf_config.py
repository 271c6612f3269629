"""From a Hugging Face config.json to a DecoderConfig; refuses every field that it does not know how to honour."""

import json
from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.models.config import Activation, DecoderConfig, Experts, LayerKind, Rope

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
ROPE_FIELDS = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}

# Fields that do not touch the forward pass of a causal language model in inference.
IGNORED = {
    "_name_or_path", "architectures", "attention_dropout", "bos_token_id", "dtype", "eos_token_id", "initializer_range",
    "model_type", "output_router_logits", "pad_token_id", "pretraining_tp", "router_aux_loss_coef", "torch_dtype",
    "transformers_version", "use_cache",
}  # fmt: skip
SHARED = {
    "head_dim", "hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "tie_word_embeddings", "vocab_size",
}  # fmt: skip
HANDLED = {
    "llama": SHARED | {"attention_bias", "mlp_bias"},
    "qwen2_moe": SHARED | {
        "decoder_sparse_step", "layer_types", "max_window_layers", "mlp_only_layers", "moe_intermediate_size",
        "norm_topk_prob", "num_experts", "num_experts_per_tok", "qkv_bias", "shared_expert_intermediate_size",
        "sliding_window", "use_sliding_window",
    },
}  # fmt: skip


def read_config(directory: Path) -> DecoderConfig:
    """Reads `config.json` of a checkpoint directory.

    Raises:
      InputError: the file is missing or malformed, the architecture is not supported, or a field is set to something
        that the decoder does not do.
    """
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; --source must be a Hugging Face model directory") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a JSON object")
    try:
        return translate(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def translate(raw: dict[str, Any]) -> DecoderConfig:
    """Translates the content of a config.json.

    Fields that are left out take the default that transformers gives them.

    Raises:
      InputError: as in `read_config`, without the file's name.
    """
    from transformers import CONFIG_MAPPING

    family = raw.get("model_type")
    if family not in HANDLED:
        raise InputError(f"model_type {family!r} is not supported; supported: {', '.join(sorted(HANDLED))}")
    config_class = CONFIG_MAPPING[family]
    _refuse_unknown_fields(raw, HANDLED[family] | IGNORED, config_class().to_dict())
    try:
        hf = config_class.from_dict(raw)
    except Exception as error:  # transformers validates in its own ways, with exceptions of several libraries
        raise InputError(f"refused by transformers: {error}") from error
    kinds, experts = _layers(hf) if family == "qwen2_moe" else (("dense",) * hf.num_hidden_layers, None)
    heads = hf.num_attention_heads
    head_size = getattr(hf, "head_dim", None) or hf.hidden_size // heads
    kv_heads = hf.num_key_value_heads or heads
    if heads % kv_heads:
        raise InputError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    if head_size % 2:
        raise InputError(f"head_dim {head_size} is odd; rotary positions need pairs")
    if hf.hidden_act not in ACTIVATIONS:
        raise InputError(f"hidden_act {hf.hidden_act!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    attention_bias = bool(getattr(hf, "attention_bias", False))
    return DecoderConfig(
        family=family,
        vocab_size=hf.vocab_size,
        width=hf.hidden_size,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        layer_kinds=kinds,
        mlp_width=hf.intermediate_size,
        experts=experts,
        activation=ACTIVATIONS[hf.hidden_act],
        norm_epsilon=hf.rms_norm_eps,
        rope=_rope(hf.rope_parameters),
        max_positions=hf.max_position_embeddings,
        qkv_bias=bool(getattr(hf, "qkv_bias", attention_bias)),
        output_bias=attention_bias,
        mlp_bias=bool(getattr(hf, "mlp_bias", False)),
        tied_embeddings=bool(hf.tie_word_embeddings),
    )


def _refuse_unknown_fields(raw: dict[str, Any], known: set[str], defaults: dict[str, Any]) -> None:
    missing = object()
    for field in sorted(raw.keys() - known):
        if raw[field] is None or raw[field] == defaults.get(field, missing):
            continue
        if field in {"id2label", "label2id"}:  # names of classes of a classifier head; there is none
            continue
        raise InputError(f"field {field!r} = {raw[field]!r} is not handled by the decoder")


def _layers(hf: Any) -> tuple[tuple[LayerKind, ...], Experts | None]:
    if hf.use_sliding_window:
        raise InputError(f"field 'use_sliding_window' = {hf.use_sliding_window!r} is not handled by the decoder")
    for layer, kind in enumerate(hf.layer_types or ()):
        if kind != "full_attention":
            raise InputError(f"field 'layer_types': layer {layer} is {kind!r}, only full_attention is handled")
    kinds: tuple[LayerKind, ...] = tuple(
        "moe"
        if layer not in hf.mlp_only_layers and hf.num_experts > 0 and (layer + 1) % hf.decoder_sparse_step == 0
        else "dense"
        for layer in range(hf.num_hidden_layers)
    )
    if "moe" not in kinds:
        return kinds, None
    if not 0 < hf.num_experts_per_tok <= hf.num_experts:
        raise InputError(f"num_experts_per_tok {hf.num_experts_per_tok} is not within 1..num_experts {hf.num_experts}")
    return kinds, Experts(
        count=hf.num_experts,
        per_token=hf.num_experts_per_tok,
        width=hf.moe_intermediate_size,
        shared_width=hf.shared_expert_intermediate_size,
        normalize=bool(hf.norm_topk_prob),
    )


def _rope(parameters: dict[str, Any]) -> Rope:
    kind = parameters.get("rope_type", "default")
    if kind not in ROPE_FIELDS:
        raise InputError(f"rope_type {kind!r} is not supported; supported: {', '.join(ROPE_FIELDS)}")
    neutral = {"partial_rotary_factor": 1.0, "attention_factor": None}
    for field, value in parameters.items():
        if field in {"rope_theta", "rope_type", "type"} | ROPE_FIELDS[kind] or value == neutral.get(field, "required"):
            continue
        raise InputError(f"rope field {field!r} = {value!r} is not handled for rope_type {kind!r}")
    missing = ROPE_FIELDS[kind] - parameters.keys()
    if missing:
        raise InputError(f"rope_type {kind!r} needs {', '.join(sorted(missing))}")
    if kind == "llama3":
        return Rope("llama3", float(parameters["rope_theta"]), float(parameters["factor"]),
                    float(parameters["low_freq_factor"]), float(parameters["high_freq_factor"]),
                    int(parameters["original_max_position_embeddings"]))  # fmt: skip
    return Rope(kind, float(parameters["rope_theta"]), float(parameters.get("factor", 1.0)))
