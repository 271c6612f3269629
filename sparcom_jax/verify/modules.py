"""Module by module: each is given what transformers gives its own, so that a departure has a place."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Int32

from sparcom_jax.batches.packing import fill, one_text
from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.models.attention import View
from sparcom_jax.models.decoder import Block, Decoder
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import default_kernels
from sparcom_jax.models.rope import rotary, text_lengths
from sparcom_jax.verify.reference import Reference


class ModuleError(NamedTuple):
    """How far a module is from transformers' on the same input.

    Attributes:
      module: path of the module in transformers' model.
      error: largest difference of an output, relative to the largest output.
    """

    module: str
    error: float


def module_errors(decoder: Decoder, reference: Reference, ids: Int32[np.ndarray, "T"]) -> Iterator[ModuleError]:
    """Compares every module, in the order of the forward pass.

    Args:
      decoder: the model.
      reference: the same model in transformers.
      ids: token ids of a text.
    """
    family = FAMILIES[decoder.config.family]
    embed, norm = (family.model[name][0].rpartition(".")[0] for name in ("embed/embedding", "norm/scale"))
    read = reference.run(ids, {"embed": embed, "norm": norm, "norm:in": f"{norm}:in"})
    embedded = decoder.embed(jnp.asarray(ids))
    scale = jnp.asarray(decoder.config.embedding_scale, embedded.dtype)
    yield ModuleError(embed, relative_error(embedded * scale, read["embed"]))
    for run, stacked in zip(decoder.config.runs, decoder.runs, strict=True):
        graph, params = nnx.split(stacked)
        for place in range(len(run)):
            block = nnx.merge(graph, jax.tree.map(lambda leaf, place=place: leaf[place], params))
            yield from _of_layer(block, run.start + place, reference, ids)
    yield ModuleError(norm, relative_error(decoder.norm(jnp.asarray(read["norm:in"], embedded.dtype)), read["norm"]))


def relative_error(ours: Any, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    largest = float(np.abs(theirs).max())
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max()) / (largest or 1.0)


def _of_layer(block: Block, layer: int, reference: Reference, ids: Int32[np.ndarray, "T"]) -> Iterator[ModuleError]:
    paths = {name: f"{reference.layer(layer)}.{theirs}" for name, theirs in _names(block).items()}
    read = reference.run(ids, paths | {f"{name}:in": f"{path}:in" for name, path in paths.items()})
    given = {name: jnp.asarray(read[f"{name}:in"], block.attention.o.kernel[...].dtype) for name in paths}
    for name, path in paths.items():
        if name == "attention":
            ours = _attend(block, layer, given[name], ids)
        elif name == "mlp" and block.kind == "dense":
            ours, _ = block.mlp(given[name], NeuronEdit(), jnp.zeros(len(ids), jnp.int32), axis=None)
        elif name == "mlp":
            ours, _ = block.moe(given[name], jnp.ones(len(ids), bool), Edits(), jnp.zeros(len(ids), jnp.int32),
                                axis=None, kernel=default_kernels().experts)  # fmt: skip
        else:
            ours = getattr(block, name)(given[name])
        yield ModuleError(path, relative_error(ours, read[name]))


def _names(block: Block) -> dict[str, str]:
    """Our modules of a layer and the names of theirs, in the order of the forward pass."""
    table = FAMILIES[block.config.family].layer
    attention = table["attention/o/kernel"][0].split(".")[0]
    named = {"attention": attention, "mlp": "mlp"}
    named |= {name.removesuffix("/scale"): theirs.rpartition(".")[0] for name, (theirs, _) in table.items()
              if name.count("/") == 1 and name.endswith("_norm/scale")}  # fmt: skip
    order = ("attention_norm", "attention", "attention_post_norm", "mlp_norm", "mlp", "mlp_post_norm")
    return {name: named[name] for name in order if name == "mlp" or hasattr(block, name)}


def _attend(block: Block, layer: int, x: Any, ids: Int32[np.ndarray, "T"]) -> Any:
    shape = one_text(len(ids))
    batch = jax.tree.map(jnp.asarray, fill(shape, [ids], [np.ones(len(ids), bool)]))
    own = block.config.layers[layer]
    length = text_lengths(batch.position, batch.row, shape.rows)
    by = rotary(batch.position, length, block.config.ropes[own.rope])
    view = View(shape.window, jnp.asarray(own.reach) if own.reach else None)
    padded = jnp.zeros((shape.slots, x.shape[1]), x.dtype).at[: len(ids)].set(x)
    attended, _ = block.attention(padded, by, batch.row, batch.position, view=view, cache=None, axis=None,
                                  kernel=default_kernels().attention)  # fmt: skip
    return attended[: len(ids)]
