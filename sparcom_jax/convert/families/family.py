"""What a model family is: how its config becomes a DecoderConfig, and which tensors its parameters are.

A row of a name table says: the parameter at this path is the tensor of this name, transposed where torch's Linear keeps
`[out, in]` and Flax keeps `[in, out]`, or a part of a tensor that holds several. `{expert}` stands for the index on the
leading expert axis.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from sparcom_jax.convert.rope import read_rope
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import Activation, DecoderConfig, DenseMLP, Experts, GroupedQuery, Layer, Mixer

TRANSPOSED, AS_IS = True, False

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}


@dataclass(frozen=True)
class Part:
    """A parameter that shares its tensor with others: it is some of the rows along one axis.

    Attributes:
      shape: shape of the tensor in the file.
      rows: which rows they are, in their order in the parameter.
      axis: the axis that they are on.
      transposed: whether the parameter is the transpose of these rows.
    """

    shape: Callable[[DecoderConfig], tuple[int, ...]]
    rows: Callable[[DecoderConfig], slice | np.ndarray]
    axis: int = 0
    transposed: bool = TRANSPOSED


Names = dict[str, tuple[str, bool | Part]]


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
      handled: fields of config.json that `translate` honours.
      translate: makes the decoder's config from transformers' config object.
      layer: names of the tensors of a layer.
      model: names of the others.
      layer_prefix: what the names of a layer begin with.
      neutral: fields that are not handled, each with the one value that changes nothing.
    """

    handled: frozenset[str]
    translate: Callable[[Any], DecoderConfig]
    layer: Names
    model: Names
    layer_prefix: str = "model.layers.{layer}."
    neutral: dict[str, Any] = field(default_factory=dict)


SHARED_FIELDS = frozenset({
    "head_dim", "hidden_act", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads",
    "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "rope_parameters", "rope_scaling", "rope_theta",
    "tie_word_embeddings", "vocab_size",
})  # fmt: skip
OWN_CODE = frozenset({"auto_map"})
"""Of families that were published with code of their own, which transformers has since; that code is never run."""
WINDOW_FIELDS = frozenset({"layer_types", "max_window_layers", "sliding_window", "use_sliding_window"})

MODEL: Names = {
    "embed/embedding": ("model.embed_tokens.weight", AS_IS),
    "norm/scale": ("model.norm.weight", AS_IS),
    "head/kernel": ("lm_head.weight", TRANSPOSED),
}
PRE_NORMS: Names = {
    "attention_norm/scale": ("input_layernorm.weight", AS_IS),
    "mlp_norm/scale": ("post_attention_layernorm.weight", AS_IS),
}
FOUR_NORMS: Names = {
    "attention_norm/scale": ("input_layernorm.weight", AS_IS),
    "attention_post_norm/scale": ("post_attention_layernorm.weight", AS_IS),
    "mlp_norm/scale": ("pre_feedforward_layernorm.weight", AS_IS),
    "mlp_post_norm/scale": ("post_feedforward_layernorm.weight", AS_IS),
}
ATTENTION: Names = {
    "attention/q/kernel": ("self_attn.q_proj.weight", TRANSPOSED),
    "attention/q/bias": ("self_attn.q_proj.bias", AS_IS),
    "attention/k/kernel": ("self_attn.k_proj.weight", TRANSPOSED),
    "attention/k/bias": ("self_attn.k_proj.bias", AS_IS),
    "attention/v/kernel": ("self_attn.v_proj.weight", TRANSPOSED),
    "attention/v/bias": ("self_attn.v_proj.bias", AS_IS),
    "attention/o/kernel": ("self_attn.o_proj.weight", TRANSPOSED),
    "attention/o/bias": ("self_attn.o_proj.bias", AS_IS),
}
QK_NORMS: Names = {
    "attention/q_norm/scale": ("self_attn.q_norm.weight", AS_IS),
    "attention/k_norm/scale": ("self_attn.k_norm.weight", AS_IS),
}
MLP: Names = {
    "mlp/gate/kernel": ("mlp.gate_proj.weight", TRANSPOSED),
    "mlp/gate/bias": ("mlp.gate_proj.bias", AS_IS),
    "mlp/up/kernel": ("mlp.up_proj.weight", TRANSPOSED),
    "mlp/up/bias": ("mlp.up_proj.bias", AS_IS),
    "mlp/down/kernel": ("mlp.down_proj.weight", TRANSPOSED),
    "mlp/down/bias": ("mlp.down_proj.bias", AS_IS),
}
EXPERTS: Names = {
    "moe/router/kernel": ("mlp.gate.weight", TRANSPOSED),
    "moe/routed/gate": ("mlp.experts.{expert}.gate_proj.weight", TRANSPOSED),
    "moe/routed/up": ("mlp.experts.{expert}.up_proj.weight", TRANSPOSED),
    "moe/routed/down": ("mlp.experts.{expert}.down_proj.weight", TRANSPOSED),
}


def decoder_config(hf: Any, **changes: Any) -> DecoderConfig:
    """What most families have in common, with what one has of its own.

    Args:
      hf: transformers' config object.
      changes: fields of the DecoderConfig that are not as usual.

    Raises:
      InputError: sizes that do not fit each other, or an unknown activation function.
    """
    heads = hf.num_attention_heads
    kv_heads = getattr(hf, "num_key_value_heads", None) or heads
    head_size = changes.get("head_size") or getattr(hf, "head_dim", None) or hf.hidden_size // heads
    if heads % kv_heads:
        raise InputError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}")
    activation = getattr(hf, "hidden_activation", None) or hf.hidden_act
    if activation not in ACTIVATIONS:
        raise InputError(f"hidden_act {activation!r} is not supported; supported: {', '.join(ACTIVATIONS)}")
    usual: dict[str, Any] = {
        "family": hf.model_type,
        "vocab_size": hf.vocab_size,
        "width": hf.hidden_size,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_size": head_size,
        "activation": ACTIVATIONS[activation],
        "norm": "rms",
        "norm_epsilon": getattr(hf, "rms_norm_eps", None),
        "max_positions": hf.max_position_embeddings,
        "tied_embeddings": bool(hf.tie_word_embeddings),
        "score_scale": head_size**-0.5,
        "qkv_bias": bool(getattr(hf, "attention_bias", False)),
        "output_bias": bool(getattr(hf, "attention_bias", False)),
    }
    if "layers" not in changes:
        usual["layers"] = layers(hf, (DenseMLP(hf.intermediate_size),) * hf.num_hidden_layers)
    if "ropes" not in changes:
        rope = read_rope(hf.rope_parameters, head_size, hf.max_position_embeddings)
        usual["ropes"] = (rope,)
        if rope.kind == "dynamic":  # made for texts beyond max_position_embeddings, from where it stretches
            usual["max_positions"] = int(hf.max_position_embeddings * rope.factor)
    return DecoderConfig(**(usual | changes))


def layers(hf: Any, mlps: Sequence[DenseMLP | Experts], mixer: Mixer | None = None) -> tuple[Layer, ...]:
    """The layers of a model that has `layer_types`, or one window for all layers, or none.

    Args:
      hf: transformers' config object.
      mlps: the MLP of each layer, or its experts.
      mixer: what all layers read other tokens with, but for the window; None: attention with grouped queries.

    Raises:
      InputError: a layer attends in a way that is not known.
    """
    window = getattr(hf, "sliding_window", None) or 0
    types = getattr(hf, "layer_types", None) or ["sliding_attention"] * len(mlps)
    if len(types) != len(mlps):
        raise InputError(f"field 'layer_types' has {len(types)} entries for {len(mlps)} layers")
    for layer, one in enumerate(types):
        if one not in ("full_attention", "sliding_attention"):
            raise InputError(f"field 'layer_types': layer {layer} is {one!r}, which is not handled by the decoder")
    everywhere = mixer or GroupedQuery()
    within = replace(everywhere, sliding_window=window)
    return tuple(
        Layer(within if one == "sliding_attention" else everywhere, mlp) for mlp, one in zip(mlps, types, strict=True)
    )


def check_experts(per_token: int, count: int) -> None:
    """Refuses to route a token to more experts than there are.

    Raises:
      InputError: it would.
    """
    if not 0 < per_token <= count:
        raise InputError(f"num_experts_per_tok {per_token} is not within 1..num_experts {count}")
