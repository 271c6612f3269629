"""Scoring kernels: where the counts of an instruction are cut, and which units lie above.

An instruction's frequencies take at most T + 1 values, so its cut is found by bisection over the counts: every step is
one comparison and one sum over the units, with no sort. Counts instead of frequencies are compared, because T is the
same for all units of an instruction; this keeps every comparison exact.

Axis legend: I instructions of a chunk, U units, C categories.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt16


@partial(jax.jit, static_argnames=("steps",))
def cut_counts(counts: Sequence[UInt16[Array, "I _"]], wanted: Int[Array, ""], *, steps: int = 17) -> Int[Array, "I"]:
    """The largest count that at least `wanted` units of an instruction reach.

    Args:
      counts: counts of one or several groups of units, cut together.
      wanted: k, how many units the cut must leave.
      steps: bisection steps; 2**(steps - 1) must exceed every count.
    """

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # `low` is reached by enough units, `high` is not
        middle = (low + high + 1) // 2
        reached = sum(jnp.sum(group.astype(jnp.int32) >= middle[:, None], axis=1) for group in counts)
        enough = reached >= wanted
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

    rows = counts[0].shape[0]
    start = jnp.zeros(rows, jnp.int32), jnp.full(rows, (1 << (steps - 1)) - 1, jnp.int32)
    return jax.lax.fori_loop(0, steps, halve, start)[0]


@jax.jit
def at_least(counts: UInt16[Array, "I U"], least: Int[Array, "I"]) -> Bool[Array, "I U"]:
    """Units whose count reaches `least`."""
    return counts.astype(jnp.int32) >= least[:, None]


@jax.jit
def exactly(
    counts: UInt16[Array, "I U"], means: Float[Array, "I U"] | None, cut: Int[Array, "I"], room: Int[Array, "I"]
) -> Bool[Array, "I U"]:
    """Units above the cut, and of those at the cut the first `room`, by falling mean activation, then by index.

    Args:
      counts: counts of the units.
      means: mean activations, or None where they are not stored.
      cut: count at which each instruction is cut.
      room: how many units at the cut are taken.
    """
    high = counts.astype(jnp.int32)
    tied = high == cut[:, None]
    if means is None:
        rank = jnp.cumsum(tied, axis=1) - 1
    else:
        order = jnp.argsort(jnp.where(tied, -means, jnp.inf), axis=1, stable=True)
        rank = jnp.argsort(order, axis=1, stable=True)
    return (high > cut[:, None]) | (tied & (rank < room[:, None]))


@jax.jit
def pack(mask: Bool[Array, "*rows F"]) -> UInt8[Array, "*rows bytes"]:
    """Packs the last axis, 8 units a byte, lowest bit first."""
    return jnp.packbits(mask, axis=-1, bitorder="little")


@partial(jax.jit, static_argnames=("categories",))
def membership(mask: Bool[Array, "I U"], category: UInt8[Array, "I"], *, categories: int) -> Int[Array, "C U"]:
    """How many instructions of each category hold each unit."""
    return jax.ops.segment_sum(mask.astype(jnp.int32), category.astype(jnp.int32), categories)
