"""Whether two categories differ: their sets overlap more within than between, beyond what length explains.

Every pair of categories is tested by itself, with the labels of these two shuffled among instructions of similar
length. Shuffling all labels would test that no category differs anywhere, and one that does would make the cells of all
others come out.

Axes: R labellings, the first as they are and the others shuffled; C categories, N instructions of two categories.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer, UInt8
from scipy.special import gammaln

from sparcom_jax.resampling import TIE, Shuffling, interval, length_strata, shuffle_labels


@dataclass(frozen=True)
class Shuffles:
    """Two categories, and their labels shuffled; the same for all tables of a run.

    Attributes:
      pair: the categories.
      rows: their instructions.
      of_first: whether each is of the first category, as it is and under every shuffle.
      comparable: instructions in strata of length that hold both categories; elsewhere a shuffle changes nothing.
      smallest_p: the least p-value that these shuffles can give; 1 where nothing is comparable.
    """

    pair: tuple[int, int]
    rows: Int64[np.ndarray, "N"]
    of_first: Bool[np.ndarray, "R N"]
    comparable: int
    smallest_p: float


@dataclass(frozen=True)
class Contrast:
    """How much more two categories overlap within than between.

    Attributes:
      value: (J_cc + J_dd) / 2 - J_cd; NaN where a category has fewer than two instructions.
      null_mean: its mean over the shuffles.
      p_value: share of shuffles with a contrast at least as high, one-sided, the labels as they are counted among them;
        NaN where no stratum of length holds both categories.
      low, high: its bootstrap interval over instructions.
    """

    value: float
    null_mean: float
    p_value: float
    low: float
    high: float


def shuffle_pairs(
    labels: UInt8[np.ndarray, "I"], token_count: Integer[np.ndarray, "I"], categories: int, shuffling: Shuffling
) -> list[Shuffles]:
    """Shuffles of the labels of every two categories.

    Args:
      labels: category of each instruction.
      token_count: T_i.
      categories: number of categories C.
      shuffling: how they are shuffled.
    """
    found = []
    for pair in itertools.combinations(range(categories), 2):
        rows = np.flatnonzero(np.isin(labels, pair))
        first = labels[rows] == pair[0]
        strata = length_strata(token_count[rows], shuffling.stratum_rows)
        held = np.bincount(strata, minlength=1)
        mine = np.bincount(strata, weights=first, minlength=len(held))
        mixed = (mine > 0) & (mine < held)
        # How many labellings there are: of each stratum, the ways to choose those of the first category.
        ways = np.exp(min((gammaln(held + 1) - gammaln(mine + 1) - gammaln(held - mine + 1)).sum(), 700.0))
        random = np.random.default_rng([shuffling.seed, *pair])
        shuffled = shuffle_labels(first.astype(np.uint8), strata, shuffling.permutations, random).astype(bool)
        smallest = max(1 / (1 + shuffling.permutations), 1 / ways) if mixed.any() else 1.0
        found.append(Shuffles(pair, rows, np.concatenate([first[None], shuffled]), int(held[mixed].sum()), smallest))
    return found


def contrast(overlap: Float64[np.ndarray, "I I"], shuffles: Shuffles, resampled: Float64[np.ndarray, "B C C"]
             ) -> Contrast:  # fmt: skip
    """The contrast of two categories, tested and with its interval.

    Args:
      overlap: of all pairs of instructions, symmetric.
      shuffles: of the two categories.
      resampled: mean overlaps within and between categories of bootstrap samples (`resampling.cell_means`).
    """
    drawn = _contrasts(overlap[np.ix_(shuffles.rows, shuffles.rows)], shuffles.of_first)
    value = float(drawn[0])
    if not np.isfinite(value):
        return Contrast(value, *[float("nan")] * 4)
    p_value = float(np.mean(drawn >= value - TIE)) if shuffles.comparable else float("nan")
    c, d = shuffles.pair
    low, high = interval((resampled[:, c, c] + resampled[:, d, d]) / 2 - resampled[:, c, d])
    return Contrast(value, float(drawn[1:].mean()), p_value, float(low), float(high))


def _contrasts(overlap: Float64[np.ndarray, "N N"], of_first: Bool[np.ndarray, "R N"]) -> Float64[np.ndarray, "R"]:
    """The contrast under every labelling, which all have categories of the same sizes."""
    pairs = overlap - np.diag(overlap.diagonal())
    first = of_first.astype(np.float64)
    n, m = first[0].sum(), len(pairs) - first[0].sum()
    if min(n, m) < 2:
        return np.full(len(first), np.nan)
    within = np.einsum("pn,pn->p", first @ pairs, first)
    with_all = first @ pairs.sum(axis=1)
    between, others = with_all - within, pairs.sum() - 2 * with_all + within
    return (within / (n * (n - 1)) + others / (m * (m - 1))) / 2 - between / (n * m)
