"""Module by module: each is given what transformers gives its own, so that a departure has a place."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int32

from sparcom_jax.batches.packing import fill, one_text
from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.models.context import Context, LayerConstants, default_compute, make_context
from sparcom_jax.models.decoder import Block, Decoder
from sparcom_jax.models.edits import Edits, NeuronEdit
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
    for layer in range(decoder.config.num_layers):
        yield from _of_layer(decoder.block(layer), layer, reference, ids)
    yield ModuleError(norm, relative_error(decoder.norm(jnp.asarray(read["norm:in"], embedded.dtype)), read["norm"]))


def relative_error(ours: Any, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value."""
    largest = float(np.abs(theirs).max())
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max()) / (largest or 1.0)


def _of_layer(block: Block, layer: int, reference: Reference, ids: Int32[np.ndarray, "T"]) -> Iterator[ModuleError]:
    paths = {name: f"{reference.layer(layer)}.{theirs}" for name, theirs in _names(block).items()}
    read = reference.run(ids, paths | {f"{name}:in": f"{path}:in" for name, path in paths.items()})
    given = {name: jnp.asarray(read[f"{name}:in"], block.attention.o.kernel[...].dtype) for name in paths}
    context = _context(block, ids)
    for name, path in paths.items():
        padded = jnp.pad(given[name], ((0, len(context.valid) - len(ids)), (0, 0)))
        if name == "attention":
            ours, _ = block.attention(padded, context, _constants(block, layer), None)
        elif name == "mlp" and block.layer.routed:
            ours, _ = block.moe(padded, Edits(), context, None)
        elif name == "mlp":
            ours, _ = block.mlp(padded, NeuronEdit(), context.batch.variant, axis=None)
        else:
            ours = getattr(block, name)(padded)
        yield ModuleError(path, relative_error(ours[: len(ids)], read[name]))


def _names(block: Block) -> dict[str, str]:
    """Our modules of a layer and the names of theirs, in the order of the forward pass."""
    table = FAMILIES[block.config.family].layer
    attention = table["attention/o/kernel"][0].split(".")[0]
    named = {"attention": attention, "mlp": "mlp"}
    named |= {name.removesuffix("/scale"): theirs.rpartition(".")[0] for name, (theirs, _) in table.items()
              if name.count("/") == 1 and name.endswith("_norm/scale")}  # fmt: skip
    order = ("attention_norm", "attention", "attention_post_norm", "mlp_norm", "mlp", "mlp_post_norm")
    return {name: named[name] for name in order if name == "mlp" or hasattr(block, name)}


def _context(block: Block, ids: Int32[np.ndarray, "T"]) -> Context:
    shape = one_text(len(ids))
    batch = jax.tree.map(jnp.asarray, fill(shape, [ids], [np.ones(len(ids), bool)]))
    return make_context(block.config, batch, shape, default_compute())


def _constants(block: Block, layer: int) -> LayerConstants:
    mixer = block.config.layers[layer].mixer
    window = jnp.asarray(mixer.sliding_window) if mixer.sliding_window else None
    return LayerConstants(window, jnp.asarray(mixer.rope), jnp.asarray(0), jnp.asarray(0))
