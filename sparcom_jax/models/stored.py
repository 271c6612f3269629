"""Parameters as they are stored: every layer's are its own, however the forward pass stacks them."""

from typing import NamedTuple

import jax

from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import abstract_params


class Stored(NamedTuple):
    """A parameter as it is stored, and where it lies in memory.

    Attributes:
      shape: its shape.
      leaf: which leaf of the tree of parameters has it, counted as `jax.tree.leaves` does.
      repeat: where on the leading axis of the leaf; None where it is the whole leaf.
    """

    shape: tuple[int, ...]
    leaf: int
    repeat: int | None


def stored_params(config: DecoderConfig) -> dict[str, Stored]:
    """All parameters of a model, by path: `layers/12/attention/q/kernel`, or `embed/embedding`."""
    leaves, _ = jax.tree.flatten_with_path(abstract_params(config))
    found = {}
    for number, (path, leaf) in enumerate(leaves):
        first, *rest = (str(getattr(key, "key", key)) for key in path)
        if first != "segments":
            found["/".join((first, *rest))] = Stored(leaf.shape, number, None)
            continue
        segment, position, *within = rest
        for repeat, layer in enumerate(config.segments[int(segment)].layers(int(position))):
            found["/".join(("layers", str(layer), *within))] = Stored(leaf.shape[1:], number, repeat)
    return found
