"""Correlation of two quantities, and of two category tables with its permutation test."""

import itertools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64, Num
from scipy.stats import rankdata

METHODS = ("pearson", "spearman")
TIE = 1e-12


@dataclass(frozen=True)
class TableCorrelation:
    """How alike two symmetric C x C tables are.

    Attributes:
      cells: number of distinct cells compared.
      shuffles: relabellings that the p-values rest on; all C! where `exact`.
      exact: whether they were all tried.
      value: correlation by method; NaN where a table is constant or fewer than three cells are defined.
      p_value: share of relabellings with a correlation at least as high, by method.
    """

    cells: int
    shuffles: int
    exact: bool
    value: dict[str, float]
    p_value: dict[str, float]


def pearson(first: Num[np.ndarray, "M"], second: Num[np.ndarray, "M"]) -> float:
    """Pearson correlation; NaN for fewer than three points or a constant quantity."""
    if len(first) < 3 or np.ptp(first) < TIE or np.ptp(second) < TIE:
        return float("nan")
    x, y = (values.astype(np.float64) - values.mean() for values in (first, second))
    return float(np.clip(x @ y / math.sqrt((x @ x) * (y @ y)), -1.0, 1.0))


def spearman(first: Num[np.ndarray, "M"], second: Num[np.ndarray, "M"]) -> float:
    """Spearman correlation, equal values sharing their mean rank; NaN as for `pearson`."""
    return pearson(rankdata(first), rankdata(second))


def correlate_tables(first: Float64[np.ndarray, "C C"], second: Float64[np.ndarray, "C C"], *, diagonal: bool,
                     permutations: int, seed: int) -> TableCorrelation:  # fmt: skip
    """Correlates the distinct cells of two category tables and tests it by relabelling one of them.

    The Mantel test (Mantel 1967, Cancer Res. 27:209), one-sided: categories of the second table are permuted, rows and
    columns together. All C! relabellings are tried where they are no more than `permutations`; otherwise that many are
    drawn, and the labels as they are count among them. A category with an undefined cell on the diagonal is left out.

    Args:
      first: symmetric table.
      second: symmetric table of the same categories.
      diagonal: whether the cells within a category take part, or only those between two.
      permutations: most relabellings to try.
      seed: of the relabellings drawn.
    """
    kept = np.flatnonzero(np.isfinite(first.diagonal()) & np.isfinite(second.diagonal()))
    rows, columns = np.triu_indices(kept.size, k=0 if diagonal else 1)
    cells = first[kept[rows], kept[columns]], second[kept[rows], kept[columns]]
    exact = math.factorial(kept.size) <= permutations
    orders = _all_orders(kept.size) if exact else _some_orders(kept.size, permutations, seed)
    value, p_value = {}, {}
    for method, ranks in zip(METHODS, (np.asarray, rankdata), strict=True):
        x, y = ranks(cells[0]), ranks(cells[1])
        # Relabelling moves cells about, and their ranks with them.
        table = np.zeros((kept.size, kept.size))
        table[rows, columns] = table[columns, rows] = y
        value[method] = pearson(x, y)
        high = sum(pearson(x, table[order[rows], order[columns]]) >= value[method] - TIE for order in orders)
        tested = high / len(orders) if exact else (1 + high) / (1 + len(orders))
        p_value[method] = tested if math.isfinite(value[method]) else float("nan")
    return TableCorrelation(len(rows), len(orders), exact, value, p_value)


def _all_orders(categories: int) -> Int64[np.ndarray, "R C"]:
    orders = list(itertools.permutations(range(categories)))
    return np.array(orders, np.int64).reshape(len(orders), categories)


def _some_orders(categories: int, draws: int, seed: int) -> Int64[np.ndarray, "R C"]:
    rng = np.random.default_rng(seed)
    return np.array([rng.permutation(categories) for _ in range(draws)], np.int64)
