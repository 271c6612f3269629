"""Resampled labels and instructions, and what is read off them: p-values, q-values, intervals.

A draw is a table of weights [I, C]: how often instruction i counts for category c. The labels as they are, shuffled
labels and bootstrap samples are all of this form, so every statistic is written once, for a batch of R draws.
Axes: R draws, I instructions, C categories.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer, UInt8, UInt16

TIE = 1e-12
"""Statistics closer than this are equal: a shuffle that changes nothing must count as a tie."""
DRAWS_AT_ONCE = 64
CONFIDENCE = 0.95
STRATUM_ROWS = 8
"""Instructions in a stratum of length within which labels are shuffled. Their number stays, so that strata become finer
with more instructions: within wide ones, a category that is a little longer than another is found sooner or later."""
LEAST_FOR_INTERVAL = 5
"""Instructions of a category below which no interval is given: of two there is one pair, in every sample the same."""


@dataclass(frozen=True)
class Shuffling:
    """How labels are shuffled among instructions of similar length.

    Attributes:
      permutations: how many times.
      stratum_rows: about how many instructions a stratum of length holds.
      seed: any whole number from 0 on.
    """

    permutations: int
    stratum_rows: int
    seed: int


@dataclass(frozen=True)
class Draws:
    """The draws that all groups of a run share, so that their tables can be compared.

    Attributes:
      observed: the labels as they are.
      shuffled: labels shuffled among instructions of similar length.
      resampled: instructions drawn with replacement within their category.
      halved: half of the instructions of each category, drawn without replacement.
    """

    observed: UInt16[np.ndarray, "1 I C"]
    shuffled: UInt16[np.ndarray, "P I C"]
    resampled: UInt16[np.ndarray, "R I C"]
    halved: UInt16[np.ndarray, "R I C"]


def make_draws(labels: UInt8[np.ndarray, "I"], token_count: Integer[np.ndarray, "I"], categories: int,
               shuffling: Shuffling, *, bootstraps: int) -> Draws:  # fmt: skip
    """Draws what `Draws` holds; the same seed gives the same draws.

    Args:
      labels: category of each instruction.
      token_count: T_i, counted tokens.
      categories: number of categories C.
      shuffling: how labels are shuffled; its seed is that of all draws.
      bootstraps: bootstrap samples, and halves.
    """
    stratified, bootstrap, halving = np.random.default_rng(shuffling.seed).spawn(3)
    strata = length_strata(token_count, shuffling.stratum_rows)
    return Draws(
        one_hot(labels[None], categories),
        one_hot(shuffle_labels(labels, strata, shuffling.permutations, stratified), categories),
        bootstrap_weights(labels, categories, bootstraps, bootstrap),
        half_weights(labels, categories, bootstraps, halving),
    )


def one_hot(labels: UInt8[np.ndarray, "R I"], categories: int) -> UInt16[np.ndarray, "R I C"]:
    """Weights of labels: 1 for the category of the instruction, 0 for the others."""
    return (labels[:, :, None] == np.arange(categories)).astype(np.uint16)


def length_strata(token_count: Integer[np.ndarray, "I"], stratum_rows: int) -> Int64[np.ndarray, "I"]:
    """Cuts instructions into strata of similar length, at the quantiles of T; equal lengths stay together.

    The quantiles lie between two lengths, by linear interpolation. All is multiplied by the number of strata, so that
    whole numbers are compared: a rounded quantile would move every instruction of that length.

    Args:
      token_count: T of each instruction.
      stratum_rows: about how many instructions a stratum holds.
    """
    strata = max(round(len(token_count) / stratum_rows), 1)
    lengths = np.sort(token_count).astype(np.int64)
    place, past = np.divmod(np.arange(1, strata) * (len(lengths) - 1), strata)
    edges = lengths[place] * (strata - past) + lengths[np.minimum(place + 1, len(lengths) - 1)] * past
    return np.searchsorted(edges, token_count.astype(np.int64) * strata, side="right")


def shuffle_labels(labels: UInt8[np.ndarray, "I"], strata: Int64[np.ndarray, "I"], draws: int, rng: np.random.Generator
                   ) -> UInt8[np.ndarray, "R I"]:  # fmt: skip
    """Shuffles labels within strata; every category keeps its size in every stratum.

    Args:
      labels: category of each instruction.
      strata: stratum of each instruction.
      draws: number of shuffles R.
      rng: source of randomness.
    """
    places = np.argsort(strata, kind="stable")
    shuffled = np.empty((draws, len(labels)), np.uint8)
    for draw in range(draws):
        shuffled[draw, places] = labels[np.lexsort((rng.random(len(labels)), strata))]
    return shuffled


def bootstrap_weights(labels: UInt8[np.ndarray, "I"], categories: int, draws: int, rng: np.random.Generator
                      ) -> UInt16[np.ndarray, "R I C"]:  # fmt: skip
    """How often each instruction is drawn when every category is resampled with replacement to its own size."""
    weights = np.zeros((draws, len(labels), categories), np.uint16)
    for category in range(categories):
        rows = np.flatnonzero(labels == category)
        if rows.size:
            weights[:, rows, category] = rng.multinomial(rows.size, np.full(rows.size, 1 / rows.size), draws)
    return weights


def half_weights(labels: UInt8[np.ndarray, "I"], categories: int, draws: int, rng: np.random.Generator
                 ) -> UInt16[np.ndarray, "R I C"]:  # fmt: skip
    """Half of the instructions of every category, rounded down but one at least, each once."""
    weights = np.zeros((draws, len(labels), categories), np.uint16)
    for category in range(categories):
        rows = np.flatnonzero(labels == category)
        if rows.size:
            chosen = np.argsort(rng.random((draws, rows.size)), axis=1)[:, : max(rows.size // 2, 1)]
            weights[np.arange(draws)[:, None], rows[chosen], category] = 1
    return weights


def pair_counts(weights: UInt16[np.ndarray, "R I C"]) -> Float64[np.ndarray, "R C C"]:
    """Ordered pairs of two different instructions in every cell of the category table."""
    held = weights.astype(np.float64)
    total = held.sum(axis=1)
    return total[:, :, None] * total[:, None, :] - held.transpose(0, 2, 1) @ held


def cell_means(overlap: Float64[np.ndarray, "I I"], weights: UInt16[np.ndarray, "R I C"]
               ) -> Float64[np.ndarray, "R C C"]:  # fmt: skip
    """Mean overlap in every cell of the category table: within a category on the diagonal, between two off it.

    An instruction is never paired with itself, even where a bootstrap sample holds it several times. It runs in float64
    on the host: p-values count ties, which float32 would break, and the product is small beside the kernels on units.

    Args:
      overlap: of all pairs of instructions, symmetric.
      weights: the draws.

    Returns:
      The means; NaN in cells without a pair.
    """
    pairs = overlap - np.diag(overlap.diagonal())
    count = pair_counts(weights)
    total = np.empty_like(count)
    rows, categories = weights.shape[1:]
    for start in range(0, len(weights), DRAWS_AT_ONCE):
        held = weights[start : start + DRAWS_AT_ONCE].astype(np.float64).transpose(1, 0, 2)
        summed = (pairs @ held.reshape(rows, -1)).reshape(rows, -1, categories)
        total[start : start + DRAWS_AT_ONCE] = held.transpose(1, 2, 0) @ summed.transpose(1, 0, 2)
    return share(total, count)


def category_means(values: Float64[np.ndarray, "I K"], weights: UInt16[np.ndarray, "R I C"]
                   ) -> Float64[np.ndarray, "R C K"]:  # fmt: skip
    """Mean over the instructions of every category of K quantities; NaN for a category without instructions."""
    means = np.empty((len(weights), weights.shape[2], values.shape[1]), np.float64)
    for start in range(0, len(weights), DRAWS_AT_ONCE):
        held = weights[start : start + DRAWS_AT_ONCE].astype(np.float64).transpose(0, 2, 1)
        means[start : start + DRAWS_AT_ONCE] = share(held @ values, held.sum(axis=2)[:, :, None])
    return means


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Ratio part / whole; NaN where whole is 0."""
    shape = np.broadcast_shapes(part.shape, whole.shape)
    return np.divide(part, whole, out=np.full(shape, np.nan), where=np.broadcast_to(whole > 0, shape))


def two_sided_p(observed: Float[np.ndarray, "*cells"], draws: Float[np.ndarray, "R *cells"]
                ) -> Float64[np.ndarray, "*cells"]:  # fmt: skip
    """Twice the smaller tail, each tail counted as (1 + #) / (1 + R) with ties, and at most 1.

    Counting the observed value among the draws keeps the test valid for any R (Phipson and Smyth 2010, SAGMB 9:39), and
    the two tails need no symmetric null. Draws that are NaN are left out; an observed NaN has no p-value.

    Args:
      observed: the statistic.
      draws: the statistic of R shuffles.
    """
    count = np.isfinite(draws).sum(axis=0)
    above = (draws >= observed - TIE).sum(axis=0)
    below = (draws <= observed + TIE).sum(axis=0)
    p = np.minimum(2 * (1 + np.minimum(above, below)) / (1 + count), 1.0)
    return np.where(np.isfinite(observed), p, np.nan)


def one_sided_p(observed: Float[np.ndarray, "*cells"], draws: Float[np.ndarray, "R *cells"]
                ) -> Float64[np.ndarray, "*cells"]:  # fmt: skip
    """The upper tail, counted as in `two_sided_p`: that chance gives as much or more."""
    count, above = np.isfinite(draws).sum(axis=0), (draws >= observed - TIE).sum(axis=0)
    return np.where(np.isfinite(observed), (1 + above) / (1 + count), np.nan)


def benjamini_hochberg(p: Float64[np.ndarray, "M"]) -> Float64[np.ndarray, "M"]:
    """q-values: the false discovery rate at which each hypothesis is just rejected.

    Benjamini and Hochberg 1995, JRSS B 57:289. Hypotheses without a p-value (NaN) are not counted.

    Args:
      p: p-values.
    """
    tested = np.flatnonzero(np.isfinite(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    scaled = p[order] * tested.size / np.arange(1, tested.size + 1)
    q = np.full(p.shape, np.nan)
    q[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return q


def mean_of_draws(draws: Float64[np.ndarray, "R *cells"]) -> Float64[np.ndarray, "*cells"]:
    """Mean over the draws that are defined; NaN where none is."""
    defined = np.isfinite(draws)
    return share(np.where(defined, draws, 0.0).sum(axis=0), defined.sum(axis=0))


def interval(draws: Float64[np.ndarray, "R *cells"]) -> tuple[np.ndarray, np.ndarray]:
    """Percentile bootstrap interval (95%) over the draws that are defined; NaN where none is.

    Args:
      draws: the statistic of R bootstrap samples.

    Returns:
      Lower and upper ends, each `[*cells]`.
    """
    defined = np.isfinite(draws).any(axis=0)
    tails = [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]
    low, high = np.nanquantile(np.where(defined, draws, 0.0), tails, axis=0)
    return np.where(defined, low, np.nan), np.where(defined, high, np.nan)
