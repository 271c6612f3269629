"""Name tables: which Hugging Face tensor is which parameter, for every family.

A row says: the parameter at this path of a layer is the tensor of this name, transposed where torch's Linear keeps
`[out, in]` and Flax keeps `[in, out]`. `{expert}` stands for the index on the leading expert axis.
"""

import re
from dataclasses import dataclass

import jax

from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import abstract_params

IGNORED_TENSORS = re.compile(r"\.rotary_emb\.inv_freq$")
"""Buffers that old checkpoints carry along; they follow from the config."""

TRANSPOSED, AS_IS = True, False

MODEL = {
    "embed/embedding": ("model.embed_tokens.weight", AS_IS),
    "norm/scale": ("model.norm.weight", AS_IS),
    "head/kernel": ("lm_head.weight", TRANSPOSED),
}
ATTENTION = {
    "attention_norm/scale": ("input_layernorm.weight", AS_IS),
    "attention/q/kernel": ("self_attn.q_proj.weight", TRANSPOSED),
    "attention/q/bias": ("self_attn.q_proj.bias", AS_IS),
    "attention/k/kernel": ("self_attn.k_proj.weight", TRANSPOSED),
    "attention/k/bias": ("self_attn.k_proj.bias", AS_IS),
    "attention/v/kernel": ("self_attn.v_proj.weight", TRANSPOSED),
    "attention/v/bias": ("self_attn.v_proj.bias", AS_IS),
    "attention/o/kernel": ("self_attn.o_proj.weight", TRANSPOSED),
    "attention/o/bias": ("self_attn.o_proj.bias", AS_IS),
    "mlp_norm/scale": ("post_attention_layernorm.weight", AS_IS),
}
MLP = {
    "mlp/gate/kernel": ("mlp.gate_proj.weight", TRANSPOSED),
    "mlp/gate/bias": ("mlp.gate_proj.bias", AS_IS),
    "mlp/up/kernel": ("mlp.up_proj.weight", TRANSPOSED),
    "mlp/up/bias": ("mlp.up_proj.bias", AS_IS),
    "mlp/down/kernel": ("mlp.down_proj.weight", TRANSPOSED),
    "mlp/down/bias": ("mlp.down_proj.bias", AS_IS),
}
QWEN2_MOE = {
    "moe/router/kernel": ("mlp.gate.weight", TRANSPOSED),
    "moe/routed/gate": ("mlp.experts.{expert}.gate_proj.weight", TRANSPOSED),
    "moe/routed/up": ("mlp.experts.{expert}.up_proj.weight", TRANSPOSED),
    "moe/routed/down": ("mlp.experts.{expert}.down_proj.weight", TRANSPOSED),
    "moe/shared/gate/kernel": ("mlp.shared_expert.gate_proj.weight", TRANSPOSED),
    "moe/shared/up/kernel": ("mlp.shared_expert.up_proj.weight", TRANSPOSED),
    "moe/shared/down/kernel": ("mlp.shared_expert.down_proj.weight", TRANSPOSED),
    "moe/shared_gate/kernel": ("mlp.shared_expert_gate.weight", TRANSPOSED),
}
LAYER = {
    "llama": ATTENTION | MLP,
    "qwen2_moe": ATTENTION | MLP | QWEN2_MOE,
}


@dataclass(frozen=True)
class Source:
    """Where a part of a parameter comes from.

    Attributes:
      name: name of the Hugging Face tensor.
      index: which part of the (stacked) parameter it is: (), (layer,) or (layer, expert).
      shape: shape that the tensor must have in the file.
      transposed: whether it is transposed on the way.
    """

    name: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool


def path_name(path: tuple[object, ...]) -> str:
    """A parameter's path written with slashes, for example `runs/0/attention/q/kernel`."""
    return "/".join(str(getattr(key, "key", key)) for key in path)


def parameter_sources(config: DecoderConfig) -> dict[str, tuple[jax.ShapeDtypeStruct, list[Source]]]:
    """Every parameter of a model with the tensors it is made of.

    Returns:
      Path of the parameter -> its shape and its sources; no tensor occurs twice.
    """
    leaves, _ = jax.tree.flatten_with_path(abstract_params(config))
    return {path_name(path): (leaf, _sources(config, path_name(path), leaf.shape)) for path, leaf in leaves}


def _sources(config: DecoderConfig, path: str, shape: tuple[int, ...]) -> list[Source]:
    if not path.startswith("runs/"):
        name, transposed = MODEL[path]
        return [Source(name, (), shape[::-1] if transposed else shape, transposed)]
    _, run, in_layer = path.split("/", 2)
    start = config.runs[int(run)].start
    template, transposed = LAYER[config.family][in_layer]
    stacked = 2 if "{expert}" in template else 1
    part = shape[stacked:][::-1] if transposed else shape[stacked:]
    experts = range(shape[1]) if stacked == 2 else (None,)
    return [
        Source(f"model.layers.{start + layer}.{template.format(expert=expert)}",
               (layer,) if expert is None else (layer, expert), part, transposed)
        for layer in range(shape[0])
        for expert in experts
    ]  # fmt: skip
