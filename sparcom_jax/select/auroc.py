"""How well a unit's frequency tells a category from the rest: AUROC, among instructions of similar length.

Axis legend: I instructions, C categories, U units, S strata of length, M instructions of a stratum.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int, Int16, Int32, UInt16

from sparcom_jax.select.sample import Sample

NEUTRAL = 0.5
HIGHEST = 32767
UNROLLED = 32
"""Comparisons of a unit's frequencies that are compiled into one loop over the units."""


def auroc(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "2 C U"]:
    """AUROC of every unit for every category against all others, and its z.

    Of all pairs of an instruction i of the category and j of another in the same stratum of length, the share with
    p_i > p_j, ties counted half: the Mann-Whitney statistic (Mann and Whitney 1947) summed over strata, divided by the
    number of pairs. With r_i = sum over j of sign(p_i - p_j), j in the stratum of i, it is 1/2 + sum of r_i over the
    category / (2 pairs): pairs within the category cancel, so one r serves all categories.

    z is that sum by its deviation when labels are shuffled within strata, with N instructions in a stratum, n of them
    of the category: variance n (N - n) / (N (N - 1)) times the sum of r_i squared. It is exact with ties, which need
    no correction.

    Frequencies are compared in steps of 1 / 65,534: those of T up to 255 exactly, and closer ones tie.

    Args:
      counts: of the instructions of the sample, in its order.
      sample: the instructions.

    Returns:
      AUROC, 0.5 where the category has no pairs, and z, 0 where nothing varies.
    """
    held = sample.held
    total = held.sum(axis=1, keepdims=True)
    spread = (held * (total - held) / np.maximum(total * (total - 1), 1)).T.astype(np.float32)
    tokens, pairs = sample.tokens.astype(np.int32), sample.pairs.astype(np.float32)
    return np.asarray(_auroc(counts, tokens, sample.strata, sample.members, spread, pairs))


@jax.jit
def _auroc(
    counts: UInt16[Array, "I U"],
    tokens: Int32[Array, "I"],
    strata: Int[Array, "S M"],
    members: Float32[Array, "C I"],
    spread: Float32[Array, "C S"],
    pairs: Float32[Array, "C"],
) -> Float32[Array, "2 C U"]:
    rank = standing(counts, tokens, strata)
    matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    of_strata = jnp.where(strata >= 0, members[:, strata], 0).reshape(len(members), -1)
    above = matmul(of_strata, rank.reshape(-1, rank.shape[2]).astype(jnp.float32))
    squares = (rank.astype(jnp.int32) ** 2).sum(axis=1, where=(strata >= 0)[:, :, None])
    variance = matmul(spread, squares.astype(jnp.float32))
    score = NEUTRAL + above / (2 * jnp.maximum(pairs, 1))[:, None]
    return jnp.stack([score, above * jax.lax.rsqrt(jnp.where(variance > 0, variance, jnp.inf))])


@jax.jit
def standing(counts: UInt16[Array, "I U"], tokens: Int32[Array, "I"], strata: Int[Array, "S M"]
             ) -> Int16[Array, "S M U"]:  # fmt: skip
    """The r of every instruction: how many of its stratum it exceeds, less how many exceed it.

    Args:
      counts: of the instructions.
      tokens: T of each.
      strata: their positions by stratum, -1 fills up. There r is of no use.
    """
    # Numbers of 16 bits: twice as many are compared at once as of 32. What fills up is below all others.
    filled = strata >= 0
    levels = jnp.where(filled[:, :, None], _levels(counts, tokens)[strata], -HIGHEST - 1)

    def add(rank: Int16[Array, "S M U"], one: Int16[Array, "S U"]) -> tuple[Int16[Array, "S M U"], None]:
        above, below = levels > one[:, None], levels < one[:, None]
        return rank + above.astype(jnp.int16) - below.astype(jnp.int16), None

    start = jnp.zeros(levels.shape, jnp.int16)
    rank, _ = jax.lax.scan(add, start, levels.swapaxes(0, 1), unroll=min(levels.shape[1], UNROLLED))
    return rank - (~filled).sum(axis=1, dtype=jnp.int16)[:, None, None]


def _levels(counts: UInt16[Array, "I U"], tokens: Int32[Array, "I"]) -> Int16[Array, "I U"]:
    """The quotients n / T in whole steps, rounded down: 2 HIGHEST n // T, less HIGHEST.

    Exact, so that equal quotients are equal: XLA multiplies by 1 / T, which is put right by the remainder.
    """
    whole = tokens[:, None]
    near = (counts.astype(jnp.float32) * (2 * HIGHEST / whole.astype(jnp.float32))).astype(jnp.int32)
    remainder = (counts.astype(jnp.uint32) * jnp.uint32(2 * HIGHEST)).astype(jnp.int32) - near * whole
    exact = near + (remainder >= whole).astype(jnp.int32) - (remainder < 0).astype(jnp.int32)
    return (exact - HIGHEST).astype(jnp.int16)
