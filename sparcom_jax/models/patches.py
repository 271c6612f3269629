"""What stands in the place of parts of a layer's parameters while these are trained.

The parameters themselves stay as they are: inside the scan over layers each layer takes what is trained of it, so that
a gradient is there for one layer at a time, and lasts only of what is trained.

Axis legend: L layers that are compiled as one, n trained rows of a layer at most, A inputs and B outputs of a
projection, r rank. Fields of the patches are leaves of trees, which need not be arrays: docstrings say their shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


@partial(jax.tree_util.register_dataclass, data_fields=["values", "at"], meta_fields=["axes"])
@dataclass(frozen=True)
class RowsPatch:
    """Rows of a parameter: `parameter[at]`, where `at` counts along some of its axes.

    Attributes:
      values: the rows, `[*L, n, *rest]`.
      at: their places, `[*L, n, axes]`; those beyond the parameter's end are nowhere.
      axes: the axes that `at` counts along, ascending; those after the first follow it, or it is 0.
    """

    values: Any
    at: Any
    axes: tuple[int, ...]

    def apply(self, parameter: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The parameter of one layer with the rows in it."""
        values = self.values.astype(parameter.dtype)
        where: list[Any] = [slice(None)] * parameter.ndim
        for number, axis in enumerate(self.axes):
            where[axis] = self.at[:, number]
        if len(self.axes) == 1:  # a single index leaves its axis where it is, several come first
            values = jnp.moveaxis(values, 0, self.axes[0])
        return parameter.at[tuple(where)].set(values, mode="drop")


@partial(jax.tree_util.register_dataclass, data_fields=["values", "present"], meta_fields=[])
@dataclass(frozen=True)
class WholePatch:
    """A parameter of some layers as a whole.

    Attributes:
      values: it, `[*L, *shape]`.
      present: whether it is this layer's, `[*L]`; otherwise the layer keeps its own.
    """

    values: Any
    present: Any

    def apply(self, parameter: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The parameter of one layer."""
        return jnp.where(self.present, self.values.astype(parameter.dtype), parameter)


@partial(jax.tree_util.register_dataclass, data_fields=["a", "b"], meta_fields=["scale"])
@dataclass(frozen=True)
class LowRankPatch:
    """A product of low rank that is added to a kernel (LoRA, Hu et al. 2022), as its projection is computed.

    Attributes:
      a: reads the inputs, `[*L, A, r]`.
      b: makes the outputs of that, `[*L, r, B]`.
      scale: of the product.
    """

    a: Any
    b: Any
    scale: float


Patch = RowsPatch | WholePatch | LowRankPatch
LayerPatches = Mapping[str, Patch]
"""By the path of a parameter within a layer, for example `mlp/gate/kernel`."""


@dataclass(frozen=True, eq=False)
class Patches:
    """What is trained of all layers.

    Attributes:
      of: by segment of the model and position of its pattern, over the repeats.
    """

    of: Sequence[Sequence[LayerPatches]]


def patch(block: nnx.Module, patches: LayerPatches) -> None:
    """Puts what is trained of one layer into it.

    Args:
      block: the layer.
      patches: of it.
    """
    for path, one in patches.items():
        *owners, name = path.split("/")
        owner = reduce(getattr, owners, block)
        if isinstance(one, LowRankPatch):
            owner.add(one.a, one.b, one.scale)
        else:
            parameter = getattr(owner, name)
            parameter[...] = one.apply(parameter[...])
