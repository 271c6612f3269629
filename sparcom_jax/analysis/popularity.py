"""How far sets overlap because some units are in many sets and some in few, whatever the instructions.

In a layer, unit u is in S(i) with probability 1 / (1 + exp(-a_i - b_u)), independently of all others, where a and b are
such that every set has its size, and every unit is in as many sets, as observed (in expectation). Of all distributions
with these margins it is the one of largest entropy; as a model of answers to a test it is Rasch's (1960). Sets that
are drawn uniformly, as for the hypergeometric level, ignore that most units are popular or hardly ever chosen.

Axes: I instructions, M distinct popularities of the units of a layer, K distinct pairs of them.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Num
from scipy.special import expit, logit

from sparcom_jax.store.sets import Sets

SWEEPS = 500
CLOSE = 1e-4
"""Largest deviation, in units or instructions, at which the margins are met."""
FAR = 30.0
PAIRS_AT_ONCE = 1 << 12


@dataclass(frozen=True)
class Popularity:
    """The sets of a layer as drawn by popularity.

    Attributes:
      probability: that a unit of each popularity is in S(i).
      kind: of each unit, which popularity it has.
      units: how many have each.
    """

    probability: Float64[np.ndarray, "I M"]
    kind: Int64[np.ndarray, "U"]
    units: Int64[np.ndarray, "M"]


def fit_popularity(sizes: Num[np.ndarray, "I"], members: Num[np.ndarray, "U"]) -> Popularity:
    """Fits the probabilities to the margins of a layer, by Newton steps for instructions and units in turn.

    Args:
      sizes: |S(i)| in the layer.
      members: number of sets that hold each unit; its sum is that of the sizes.
    """
    held, kind, units = np.unique(members, return_inverse=True, return_counts=True)
    rows = len(sizes)
    probability = np.zeros((rows, len(held)))
    open_rows, open_kinds = np.ones(rows, bool), np.ones(len(held), bool)
    rest_of_rows, rest_of_kinds = sizes.astype(np.int64), held.astype(np.int64)
    # Margins that are empty or full have their probabilities at once, and what is left of the others may be so then.
    while True:
        full_rows = open_rows & (rest_of_rows == units[open_kinds].sum())
        done_rows = full_rows | (open_rows & (rest_of_rows == 0))
        probability[np.ix_(full_rows, open_kinds)] = 1.0
        rest_of_kinds -= np.where(open_kinds, np.count_nonzero(full_rows), 0)
        open_rows &= ~done_rows
        full_kinds = open_kinds & (rest_of_kinds == np.count_nonzero(open_rows))
        done_kinds = full_kinds | (open_kinds & (rest_of_kinds == 0))
        probability[np.ix_(open_rows, full_kinds)] = 1.0
        rest_of_rows -= np.where(open_rows, units[full_kinds].sum(), 0)
        open_kinds &= ~done_kinds
        if not (done_rows.any() or done_kinds.any()):
            break
    if open_rows.any() and open_kinds.any():
        inner = np.ix_(open_rows, open_kinds)
        probability[inner] = _rasch(rest_of_rows[open_rows], rest_of_kinds[open_kinds], units[open_kinds])
    return Popularity(probability, kind.reshape(-1), units)


def _rasch(
    sizes: Num[np.ndarray, "I"], members: Num[np.ndarray, "M"], units: Int64[np.ndarray, "M"]
) -> Float64[np.ndarray, "I M"]:
    a = logit(np.clip(sizes / units.sum(), 1e-6, 1 - 1e-6))
    b = logit(np.clip(members / len(sizes), 1e-6, 1 - 1e-6))
    a -= a.mean()
    for _ in range(SWEEPS):
        p = expit(a[:, None] + b)
        of_kinds = members - p.sum(axis=0)
        b = np.clip(b + np.clip(of_kinds / np.maximum((p * (1 - p)).sum(axis=0), 1e-9), -2, 2), -FAR, FAR)
        p = expit(a[:, None] + b)
        of_rows = sizes - p @ units
        if max(np.abs(of_rows).max(), np.abs(members - p.sum(axis=0)).max()) < CLOSE:
            break
        a = np.clip(a + np.clip(of_rows / np.maximum((p * (1 - p)) @ units, 1e-9), -2, 2), -FAR, FAR)
    return p


def expected_of_all(sets: Sets, group: str, sizes: Int64[np.ndarray, "I L"]) -> Float64[np.ndarray, "I I"]:
    """Expected |S(i) and S(i')| of sets drawn by popularity; layers add up.

    Args:
      sets: the sets of a run.
      group: name of the group.
      sizes: |S(i)| by layer.
    """
    expected = np.zeros((len(sizes), len(sizes)))
    for layer, members in enumerate(_members(sets, group)):
        of = fit_popularity(sizes[:, layer], members)
        expected += (of.probability * of.units) @ of.probability.T
    return expected


def expected_of_pairs(
    first: Sets, second: Sets, group: str, sizes: tuple[Int64[np.ndarray, "I L"], Int64[np.ndarray, "I L"]]
) -> Float64[np.ndarray, "I"]:
    """Expected |S_first(i) and S_second(i)| of every instruction, either set drawn by popularity within its run.

    Args:
      first: the sets of one run.
      second: those of another, of the same instructions and units.
      group: name of the group.
      sizes: |S(i)| by layer, of both.
    """
    expected = np.zeros(len(sizes[0]))
    for layer, members in enumerate(zip(_members(first, group), _members(second, group), strict=True)):
        one, other = (fit_popularity(of[:, layer], held) for of, held in zip(sizes, members, strict=True))
        kinds, units = np.unique(np.stack([one.kind, other.kind]), axis=1, return_counts=True)
        for start in range(0, len(units), PAIRS_AT_ONCE):
            a, b = kinds[:, start : start + PAIRS_AT_ONCE]
            both = one.probability[:, a] * other.probability[:, b]
            expected += both @ units[start : start + PAIRS_AT_ONCE]
    return expected


def _members(sets: Sets, group: str) -> Int64[np.ndarray, "L U"]:
    """How many instructions hold each unit, the units of a layer flat."""
    held = sets.membership(group).astype(np.int64).sum(axis=0)
    return held.reshape(len(held), -1)
