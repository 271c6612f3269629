"""What the layers of a forward pass are told besides their inputs.

Axis legend: S token slots of a batch, L layers that are compiled as one.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.kernels.choice import Kernels, default_kernels
from sparcom_jax.models.rope import Rotary, rotary, text_lengths


@dataclass(frozen=True)
class Compute:
    """How a forward pass is computed.

    Attributes:
      axis: mesh axis over which heads, neurons and experts are sharded, inside a `jax.shard_map` over it; None on one
        device.
      kernels: the kernels that the device has.
      keep: what is kept of each layer for a backward pass, which computes the rest anew: `everything`, the `products`
        of its projections, or `nothing`.
    """

    axis: str | None
    kernels: Kernels
    keep: Literal["everything", "products", "nothing"] = "everything"


def default_compute() -> Compute:
    """On this process's first device."""
    return Compute(None, default_kernels())


class LayerConstants(NamedTuple):
    """What sets layers that are compiled as one apart, besides their parameters.

    Attributes:
      sliding_window: a token attends to so many tokens, itself included; None where no layer of the model has a limit.
      rope: which rotary embedding; None where the model has one only.
      state: which state of the cache is this layer's, among those of its kind of mixer.
      repeat: which of the stacked routed experts are this layer's; None where the layer has its own.
    """

    sliding_window: Int[Array, "*L"] | None
    rope: Int[Array, "*L"] | None
    state: Int[Array, "*L"]
    repeat: Int[Array, "*L"] | None


class Context(NamedTuple):
    """What all layers share.

    Attributes:
      batch: the packed texts.
      valid: False for padding.
      rotaries: the angles of each rotary embedding of the model.
      stacked: the same on a leading axis.
      window: as in `Shape`.
      compute: how it is computed.
    """

    batch: Batch
    valid: Bool[Array, "S"]
    rotaries: tuple[Rotary, ...]
    stacked: Rotary
    window: int | None
    compute: Compute

    def rotary(self, constants: LayerConstants) -> Rotary:
        """The angles that a layer turns queries and keys by."""
        if constants.rope is None:
            return self.rotaries[0]
        return jax.tree.map(lambda part: part[constants.rope], self.stacked)


def make_context(config: DecoderConfig, batch: Batch, shape: Shape, compute: Compute) -> Context:
    """What all layers of a forward pass share.

    Args:
      config: the model.
      batch: the packed texts.
      shape: its sizes.
      compute: how it is computed.
    """
    cached = shape.window is None
    length = batch.position + 1 if cached else text_lengths(batch.position, batch.row, shape.rows)
    rotaries = tuple(rotary(batch.position, length, rope) for rope in config.ropes)
    stacked: Rotary = jax.tree.map(lambda *parts: jnp.stack(parts), *rotaries)
    return Context(batch, batch.row < shape.rows, rotaries, stacked, shape.window, compute)
