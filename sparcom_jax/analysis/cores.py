"""Core sets of categories: which units they hold, how unique those are, and which categories share them.

Axes: R draws, I instructions, C categories, U units, B bytes of packed units, L layers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float32, Float64, Int32, Int64, UInt8, UInt16

from sparcom_jax.analysis.overlap import BLOCK_VALUES, mask_blocks
from sparcom_jax.resampling import (
    LEAST_FOR_INTERVAL,
    Draws,
    benjamini_hochberg,
    interval,
    mean_of_draws,
    one_sided_p,
    share,
)
from sparcom_jax.select.cores import in_every_core, in_one_core
from sparcom_jax.store.sets import Sets, required_members
from sparcom_jax.units.bits import pack, unpack
from sparcom_jax.units.device_bits import indicators

FULL_TABLE_CATEGORIES = 10
"""Up to here the table of combinations lists all 2^C - 1 of them; beyond, those that occur."""


@dataclass(frozen=True)
class Uniqueness:
    """How far the core units of a category belong to it alone; one entry per category.

    Attributes:
      core_units: size of the core set.
      unique_units: core units in no other core.
      general_units: units in the cores of all categories (one number); 0 where there is one category.
      value: unique_units / core_units; NaN where the core is empty or there is one category, as in all that follows.
      low, high: interval over instructions, by halves of them.
      null_mean: mean of `value` over labels shuffled among instructions of similar length.
      null_unique_units, p_value, q_value: mean of `unique_units` over them; that chance gives as many or more.
    """

    core_units: Int64[np.ndarray, "C"]
    unique_units: Int64[np.ndarray, "C"]
    general_units: int
    value: Float64[np.ndarray, "C"]
    low: Float64[np.ndarray, "C"]
    high: Float64[np.ndarray, "C"]
    null_mean: Float64[np.ndarray, "C"]
    null_unique_units: Float64[np.ndarray, "C"]
    p_value: Float64[np.ndarray, "C"]
    q_value: Float64[np.ndarray, "C"]


def core_sets(sets: Sets, group: str, rho: float) -> Bool[np.ndarray, "C L U"]:
    """Core set of each category, as `Sets.core`, the units of a layer flattened.

    Args:
      sets: the sets of a run.
      group: name of the group.
      rho: share of the category's instructions that must hold a unit, in (0, 1].
    """
    core = sets.core(group, rho)
    return core.reshape(*core.shape[:2], -1)


@partial(jax.jit, static_argnames="batch")
def _core_counts(
    packed: UInt8[Array, "I B"], weights: UInt16[Array, "R I C"], required: Float32[Array, "R C"], batch: int
) -> Int32[Array, "R 2 C"]:
    bits = indicators(packed)

    def one_draw(draw: tuple[UInt16[Array, "I C"], Float32[Array, "C"]]) -> Int32[Array, "2 C"]:
        held, least = draw
        members = jnp.matmul(held.T.astype(jnp.float32), bits, precision=jax.lax.Precision.HIGHEST)
        core = members >= least[:, None]
        return jnp.stack([core, in_one_core(core)]).sum(axis=2, dtype=jnp.int32)

    return jax.lax.map(one_draw, (weights, required), batch_size=batch)


def core_counts(sets: Sets, group: str, rho: float, weights: UInt16[np.ndarray, "R I C"], advance: Callable[[int], None]
                ) -> tuple[Int64[np.ndarray, "R C"], Int64[np.ndarray, "R C"]]:  # fmt: skip
    """Sizes of the core sets, and of their parts in no other core, under every draw.

    One pass over the masks serves all draws; it costs 2 R C I U operations.

    Args:
      sets: the sets of a run.
      group: name of the group.
      rho: share of the category's instructions that must hold a unit.
      weights: the draws, of any sizes of the categories.
      advance: told of every layer that is begun.
    """
    draws, _, categories = weights.shape
    sizes = weights.sum(axis=1, dtype=np.int64)
    required = jnp.asarray(required_members(sizes.reshape(-1), rho).reshape(sizes.shape), jnp.float32)
    placed = jnp.asarray(weights)
    counts = np.zeros((draws, 2, categories), np.int64)
    begun = 0
    for layer, packed in mask_blocks(sets, group):
        batch = min(max(BLOCK_VALUES // (8 * packed.shape[1] * categories), 1), draws)
        counts += np.asarray(_core_counts(packed, placed, required, batch))
        advance(layer + 1 - begun)
        begun = layer + 1
    return counts[:, 0], counts[:, 1]


def uniqueness(sets: Sets, group: str, rho: float, core: Bool[np.ndarray, "C L U"], draws: Draws,
               advance: Callable[[int], None]) -> Uniqueness:  # fmt: skip
    """Uniqueness of every category, tested and with its interval.

    Args:
      sets: the sets of a run.
      group: name of the group.
      rho: share of the category's instructions that must hold a unit.
      core: from `core_sets`.
      draws: the draws of the run.
      advance: told of every layer that is begun.
    """
    core_units, unique_units = core.sum(axis=(1, 2)), in_one_core(core).sum(axis=(1, 2))
    general_units = int(in_every_core(core).sum())
    value = share(unique_units, core_units)
    if len(core) == 1:  # no other category, so nothing to be unique against
        general_units, value = 0, np.full(1, np.nan)
    sizes, unique = core_counts(sets, group, rho, np.concatenate([draws.shuffled, draws.halved]), advance)
    shuffled, halved = np.split(share(unique, sizes), [len(draws.shuffled)])
    null_units = unique[: len(draws.shuffled)].astype(np.float64)
    # Of the number and not of the share: a core of few units that chance makes is easily all unique.
    p_value = one_sided_p(np.where(np.isfinite(value), unique_units.astype(np.float64), np.nan), null_units)
    low, high = half_interval(value, halved, sets.category_sizes)
    return Uniqueness(core_units, unique_units, general_units, value, low, high, mean_of_draws(shuffled),
                      null_units.mean(axis=0), p_value, benjamini_hochberg(p_value))  # fmt: skip


def half_interval(value: Float64[np.ndarray, "C"], halved: Float64[np.ndarray, "R C"], sizes: Int64[np.ndarray, "C"]
                  ) -> tuple[Float64[np.ndarray, "C"], Float64[np.ndarray, "C"]]:  # fmt: skip
    """Interval (95%) of a share, as far about it as halves of the instructions scatter about their mean.

    Halves without replacement scatter as new samples of the whole size would: their variance is that of a sample of
    n / 2, less what the finite number of instructions takes, 1 - 1/2 (Politis and Romano 1994, Ann. Stat. 22:2031).
    Samples with replacement hold instructions twice, which makes units core that are not, and shifts uniqueness.

    Args:
      value: the share among all instructions.
      halved: among halves.
      sizes: instructions of each category.

    Returns:
      Lower and upper ends; NaN where the share is, and for a category of few instructions.
    """
    low, high = interval(halved - mean_of_draws(halved))
    half = np.maximum(sizes // 2, 1)
    scale = np.sqrt(half / np.maximum(sizes - half, 1))
    defined = np.isfinite(value) & (sizes >= LEAST_FOR_INTERVAL)
    low, high = (np.where(defined, np.clip(value + end * scale, 0.0, 1.0), np.nan) for end in (low, high))
    return low, high


def combinations(core: Bool[np.ndarray, "C L U"]) -> list[tuple[tuple[int, ...], int]]:
    """Units by the exact combination of categories whose cores hold them (the table of an UpSet plot).

    Args:
      core: from `core_sets`.

    Returns:
      Pairs (indices of the categories, units in the cores of those and of no others), by number of categories and then
      in the order of the categories; up to 10 categories all 2^C - 1 combinations, beyond that those that occur.
    """
    categories = len(core)
    flat = core.reshape(categories, -1)
    patterns, units = np.unique(pack(flat[:, flat.any(axis=0)].T), axis=0, return_counts=True)
    held = unpack(patterns, categories)
    found = {tuple(np.flatnonzero(pattern).tolist()): int(n) for pattern, n in zip(held, units, strict=True)}
    if categories <= FULL_TABLE_CATEGORIES:
        codes = (np.arange(1, 2**categories)[:, None] >> np.arange(categories)) & 1
        found = {tuple(np.flatnonzero(code).tolist()): 0 for code in codes} | found
    return sorted(found.items(), key=lambda entry: (len(entry[0]), entry[0]))
