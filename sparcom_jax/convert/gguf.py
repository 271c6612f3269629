"""GGUF files: their tensors and their metadata as an unquantised Hugging Face checkpoint would have them.

The names and keys are llama.cpp's, which also turned the rows of some projections, joined the experts of a layer and
added 1 to Gemma's norms when it wrote the file; all of that is undone here. A key of the architecture that has no
meaning here is refused, as is a file that does not say all that the model needs.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, ReaderTensor, dequantize

from sparcom_jax.convert.gguf_config import CONFIGS, Metadata
from sparcom_jax.convert.tensors import Derived, Recipe, Tensors
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig

PART = re.compile(r"-(\d{5})-of-(\d{5})\.gguf$")
BLOCK_BYTES = 64 << 20
OWN_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
"""Tensors that belong to the config of a model rather than to its weights."""


@dataclass(frozen=True)
class GGUF:
    """A GGUF file, or all parts of a split one.

    Attributes:
      paths: the files.
      metadata: key -> value.
      tensors: dequantised tensors under their names in the file.
      kinds: quantisation types, with the number of tensors of each.
    """

    paths: list[Path]
    metadata: dict[str, Any]
    tensors: "GGUFTensors"
    kinds: dict[str, int] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        """What llama.cpp calls the kind of model."""
        return str(self.metadata.get("general.architecture"))

    def config(self) -> dict[str, Any]:
        """The config.json that such a model has.

        Raises:
          InputError: the architecture is not supported, or a key is not handled or missing.
        """
        if self.architecture not in CONFIGS:
            raise InputError(f"general.architecture {self.architecture!r} is not supported; supported: "
                             f"{', '.join(CONFIGS)}")  # fmt: skip
        own = {name: next(self.tensors.read([name]))[1] for name in OWN_TENSORS if name in self.tensors.names}
        metadata = Metadata(self.architecture, self.metadata, self.tensors, own)
        config = CONFIGS[self.architecture](metadata)
        metadata.require_all_used()
        return config


class GGUFTensors:
    """Dequantised tensors of GGUF files. Vectors stay in float32, whatever dtype is asked for.

    Attributes:
      names: names of all tensors.
    """

    def __init__(self, tensors: dict[str, ReaderTensor], dtype: str) -> None:
        self._tensors = tensors
        self._dtype = dtype
        self.names = frozenset(tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return tuple(int(size) for size in reversed(self._tensors[name].shape))

    def dtype(self, name: str) -> str:
        """Dtype in which it is read."""
        return self._dtype if len(self.shape(name)) > 1 else "float32"

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads and dequantises tensors one by one, some rows at a time."""
        for name in names:
            tensor, shape = self._tensors[name], self.shape(name)
            rows = tensor.data.reshape(-1, tensor.data.shape[-1])
            out = np.empty((len(rows), shape[-1]), self.dtype(name))
            step = max(BLOCK_BYTES // (4 * shape[-1]), 1)
            for start in range(0, len(rows), step):
                part = slice(start, start + step)
                out[part] = dequantize(rows[part], tensor.tensor_type).reshape(-1, shape[-1])
            yield name, out.reshape(shape)


def open_gguf(path: Path, dtype: str) -> GGUF:
    """Opens a GGUF file; of a split one, any part stands for all.

    Args:
      path: the file.
      dtype: what its tensors are dequantised to.

    Raises:
      InputError: it is no GGUF file, a part is missing, or a tensor has a type that cannot be dequantised.
    """
    paths = _parts(path)
    readers = []
    for one in paths:
        try:
            readers.append(GGUFReader(one))
        except (OSError, ValueError, IndexError, KeyError) as error:
            raise InputError(f"{one}: cannot be read as GGUF: {error!r}") from error
    metadata = {key: entry.contents() for key, entry in readers[0].fields.items() if not key.startswith("GGUF.")}
    tensors: dict[str, ReaderTensor] = {}
    kinds: dict[str, int] = {}
    for one, reader in zip(paths, readers, strict=True):
        for tensor in reader.tensors:
            if tensor.name in tensors:
                raise InputError(f"{one}: tensor {tensor.name!r} is there twice")
            tensors[tensor.name] = tensor
            kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    if (count := metadata.get("split.tensors.count", len(tensors))) != len(tensors):
        raise InputError(f"{path}: {len(tensors)} tensors, the file speaks of {count}")
    for kind, name in {tensor.tensor_type: tensor.name for tensor in tensors.values()}.items():
        try:
            dequantize(tensors[name].data.reshape(-1, tensors[name].data.shape[-1])[:1], kind)
        except NotImplementedError as error:
            raise InputError(f"{path}: tensor {name!r} has type {kind.name}, which cannot be dequantised") from error
    return GGUF(paths, metadata, GGUFTensors(tensors, dtype), kinds)


def _parts(path: Path) -> list[Path]:
    split = PART.search(path.name)
    if not split:
        return [path]
    stem, count = path.name[: split.start()], int(split[2])
    paths = [path.with_name(f"{stem}-{part:05}-of-{count:05}.gguf") for part in range(1, count + 1)]
    if missing := [one.name for one in paths if not one.exists()]:
        raise InputError(f"{path.parent}: parts of the model are missing: {first_of(missing)}")
    return paths


Make = Callable[..., np.ndarray]
Rule = tuple[tuple[str, ...], Make | None]
"""Of which tensors of a layer, and how; None: as it is."""

MODEL = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
         "lm_head.weight": "output.weight"}  # fmt: skip
LAYER = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm", "self_attn.qkv_proj": "attn_qkv", "self_attn.q_a_proj": "attn_q_a",
    "self_attn.q_a_layernorm": "attn_q_a_norm", "self_attn.q_b_proj": "attn_q_b",
    "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa", "self_attn.kv_a_layernorm": "attn_kv_a_norm",
    "self_attn.kv_b_proj": "attn_kv_b", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp", "mlp.router": "ffn_gate_inp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip
POST_NORMS = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
              "post_feedforward_layernorm": "post_ffw_norm"}  # fmt: skip
LAYER_OF = {"gemma2": LAYER | POST_NORMS, "gemma3": LAYER | POST_NORMS, "olmo2": LAYER | POST_NORMS,
            "gpt-oss": LAYER | {"post_attention_layernorm": "post_attention_norm"}}  # fmt: skip
EXPERT = {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down", "w1": "ffn_gate", "w3": "ffn_up",
          "w2": "ffn_down"}  # fmt: skip


def hf_tensors(
    gguf: GGUF, config: DecoderConfig, expected: dict[str, tuple[int, ...]], dtype: str
) -> tuple[Tensors, list[str]]:
    """The tensors of a GGUF file under the names and in the layout of a Hugging Face checkpoint.

    Args:
      gguf: the file.
      config: the model.
      expected: names of the tensors that the model is made of, with their shapes.
      dtype: of the result.

    Returns:
      The tensors, and the names of those in the file that no parameter is made of.
    """
    recipes = {}
    for name, shape in expected.items():
        inputs, make = _rule(gguf, config, name)
        if all(one in gguf.tensors.names for one in inputs):
            if make is None:
                shape = gguf.tensors.shape(inputs[0])
            recipes[name] = Recipe(inputs, shape, dtype, _cast(make, dtype))
    used = {name for recipe in recipes.values() for name in recipe.inputs} | set(OWN_TENSORS)
    return Derived(gguf.tensors, recipes), sorted(gguf.tensors.names - used)


def _cast(make: Make | None, dtype: str) -> Make:
    return lambda *tensors: np.asarray(tensors[0] if make is None else make(*tensors)).astype(dtype, copy=False)


def _rule(gguf: GGUF, config: DecoderConfig, name: str) -> Rule:
    """How the file's tensors make a tensor of a checkpoint."""
    arch = gguf.architecture
    one = (lambda w: w - np.float32(1)) if arch in ("gemma2", "gemma3") and name.endswith("norm.weight") else None
    if name in MODEL:
        return (MODEL[name],), one
    _, _, layer, rest = name.split(".", 3)
    if expert := re.fullmatch(r"(?:mlp|block_sparse_moe)\.experts\.(\d+)\.(\w+)\.weight", rest):
        return _expert(gguf, f"blk.{layer}.{EXPERT[expert[2]]}", int(expert[1]))
    if arch == "gpt-oss" and (rule := _gpt_oss(rest, f"blk.{layer}.")):
        return rule
    stem, _, kind = rest.rpartition(".")
    inputs = (f"blk.{layer}.{LAYER_OF.get(arch, LAYER).get(stem, stem)}.{kind}",)
    if arch == "llama" and stem in ("self_attn.q_proj", "self_attn.k_proj"):
        heads = config.heads if stem == "self_attn.q_proj" else config.kv_heads
        return inputs, lambda rows: _turned_back(rows, heads)
    if stem == "mlp.shared_expert_gate":
        return inputs, lambda row: row.reshape(1, -1)
    if stem == "self_attn.kv_b_proj" and inputs[0] not in gguf.tensors.names:
        return (f"blk.{layer}.attn_k_b.weight", f"blk.{layer}.attn_v_b.weight"), _joined_latent
    return inputs, one


def _expert(gguf: GGUF, stem: str, expert: int) -> Rule:
    """One of the experts of a layer, which are one tensor; in older files of Mixtral, each is one of its own."""
    single = f"{stem}.{expert}.weight"
    if single in gguf.tensors.names:
        return (single,), None
    return (f"{stem}_exps.weight",), lambda experts: experts[expert]


def _gpt_oss(rest: str, block: str) -> Rule | None:
    """gpt-oss: gate and up projections lie in turns, and matrices are transposed."""
    if rest == "self_attn.sinks":
        return (f"{block}attn_sinks.weight",), None
    kind = "bias" if rest.endswith("_bias") else "weight"
    if rest in ("mlp.experts.gate_up_proj", "mlp.experts.gate_up_proj_bias"):
        return (f"{block}ffn_gate_exps.{kind}", f"{block}ffn_up_exps.{kind}"), _in_turns
    if rest == "mlp.experts.down_proj":
        return (f"{block}ffn_down_exps.weight",), lambda experts: experts.swapaxes(1, 2)
    if rest == "mlp.experts.down_proj_bias":
        return (f"{block}ffn_down_exps.bias",), None
    return None


def _turned_back(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head in the order of a Hugging Face checkpoint: first halves of all pairs, then second halves."""
    return rows.reshape(heads, -1, 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def _in_turns(gate: np.ndarray, up: np.ndarray) -> np.ndarray:
    both = np.stack([gate, up], axis=2).reshape(gate.shape[0], 2 * gate.shape[1], *gate.shape[2:])
    return both.swapaxes(1, 2) if both.ndim == 3 else both


def _joined_latent(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Keys [N, rank, H] and values [N, H, rank] of all heads as one projection [N (H + H), rank]."""
    both = np.concatenate([keys.swapaxes(1, 2), values], axis=1)
    return both.reshape(-1, both.shape[-1])
