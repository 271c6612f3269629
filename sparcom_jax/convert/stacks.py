"""Stored parameters into the stacks of the forward pass, on their devices, without a second copy of a model."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, Sharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array

from sparcom_jax.models.stored import Stored

Put = Callable[[Array, Array, int], Array]


class Stacks:
    """The leaves of a tree of parameters, as they fill up.

    Attributes:
      leaves: what is there by now.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], dtype: str, shardings: Sequence[Sharding]) -> None:
        """Nothing is allocated yet.

        Args:
          shapes: of the leaves.
          dtype: of all.
          shardings: of the leaves.
        """
        self.leaves: list[Array | None] = [None] * len(shapes)
        self._shapes = shapes
        self._dtype = dtype
        self._shardings = shardings

    def abstract(self, stored: Stored) -> jax.ShapeDtypeStruct:
        """A stored parameter as it is to be read, on the devices that are to have it."""
        sharding = self._shardings[stored.leaf]
        if stored.repeat is not None and isinstance(sharding, NamedSharding):
            sharding = NamedSharding(sharding.mesh, P(*sharding.spec[1:]))
        return jax.ShapeDtypeStruct(stored.shape, self._dtype, sharding=sharding)

    def put(self, stored: Stored, value: Array) -> None:
        """Puts a stored parameter where it belongs."""
        if stored.repeat is None:
            self.leaves[stored.leaf] = value
            return
        allocate, put = _stack(self._shapes[stored.leaf], self._dtype, self._shardings[stored.leaf])
        stack = self.leaves[stored.leaf]
        self.leaves[stored.leaf] = put(allocate() if stack is None else stack, value, stored.repeat)


@lru_cache
def _stack(shape: tuple[int, ...], dtype: str, sharding: Sharding) -> tuple[Callable[[], Array], Put]:
    allocate = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=sharding)
    # The stack is given away and comes back: it is filled where it lies.
    put = jax.jit(partial(jax.lax.dynamic_update_index_in_dim, axis=0), donate_argnums=0, out_shardings=sharding)
    return allocate, put
