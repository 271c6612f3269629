"""Correlation of two quantities, and of two category tables against tables of shuffled labels.

Axes: R draws, the first of which is what was observed; C categories, M cells.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Num
from scipy.stats import rankdata

from sparcom_jax.resampling import one_sided_p, share

METHODS = ("pearson", "spearman")
TIE = 1e-12


@dataclass(frozen=True)
class TableCorrelation:
    """How alike two symmetric C x C tables are.

    Attributes:
      cells: number of distinct cells compared.
      value: correlation by method; NaN where a table is constant or fewer than three cells are defined.
      null: median of the correlation of tables of shuffled labels, by method.
      p_value: share of shuffles with a correlation at least as high, one-sided, by method.
    """

    cells: int
    value: dict[str, float]
    null: dict[str, float]
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


def correlate_tables(first: Float64[np.ndarray, "R C C"], second: Float64[np.ndarray, "R C C"], *, diagonal: bool
                     ) -> TableCorrelation:  # fmt: skip
    """Correlates the distinct cells of two category tables, and tests it by draws of both.

    A category with an undefined cell on the diagonal is left out.

    Args:
      first: symmetric tables of one model: as observed, then of shuffled labels.
      second: those of another, of the same categories and shuffles.
      diagonal: whether the cells within a category take part, or only those between two.
    """
    kept = np.flatnonzero(np.isfinite(np.diagonal(first[0])) & np.isfinite(np.diagonal(second[0])))
    rows, columns = np.triu_indices(kept.size, k=0 if diagonal else 1)
    cells = [table[:, kept[rows], kept[columns]] for table in (first, second)]
    value, null, p_value = {}, {}, {}
    for method in METHODS:
        x, y = cells if method == "pearson" else [rankdata(of, axis=1) for of in cells]
        found = _correlation(x, y)
        defined = found[1:][np.isfinite(found[1:])]
        value[method] = float(found[0])
        null[method] = float(np.median(defined)) if defined.size else float("nan")
        p_value[method] = float(one_sided_p(found[:1], found[1:, None])[0])
    return TableCorrelation(len(rows), value, null, p_value)


def _correlation(first: Num[np.ndarray, "R M"], second: Num[np.ndarray, "R M"]) -> Float64[np.ndarray, "R"]:
    """Pearson correlation, row by row; NaN as for `pearson`."""
    if first.shape[1] < 3:
        return np.full(len(first), np.nan)
    x, y = (values - values.mean(axis=1, keepdims=True) for values in (first, second))
    varies = (np.ptp(first, axis=1) >= TIE) & (np.ptp(second, axis=1) >= TIE)
    scale = np.where(varies, np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)), 0.0)
    return np.clip(share((x * y).sum(axis=1), scale), -1.0, 1.0)
