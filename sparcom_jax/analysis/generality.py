"""How far the sets of one group of units overlap within categories and between them, and what is unique to each.

Axes: R draws, I instructions, C categories, L layers, U units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparcom_jax.analysis import popularity
from sparcom_jax.analysis.contrasts import Contrast, Shuffles, contrast
from sparcom_jax.analysis.cores import Uniqueness, core_sets, uniqueness
from sparcom_jax.analysis.overlap import all_intersections, expected_of_all, overlaps
from sparcom_jax.progress import progress
from sparcom_jax.resampling import LEAST_FOR_INTERVAL, TIE, Draws, cell_means, interval
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets
from sparcom_jax.units.groups import Group


@dataclass(frozen=True)
class GroupResult:
    """What is found for one group of units.

    Attributes:
      group: the units.
      cells: by measure, the category table of each value of a cell, `[C, C]`, by its column of `OVERLAP`.
      contrasts: by measure, of every two categories.
      explained: share of the variance of the overlaps that categories and lengths explain.
      odd: which S(i) are of odd size.
      core: the core sets.
      layer_sizes: |S(i)| by layer.
      uniqueness: of every category.
    """

    group: Group
    cells: dict[str, dict[str, np.ndarray]]
    contrasts: dict[str, list[Contrast]]
    explained: dict[str, float]
    odd: Bool[np.ndarray, "I"]
    core: Bool[np.ndarray, "C L U"]
    layer_sizes: Int64[np.ndarray, "I L"]
    uniqueness: Uniqueness


def category_table(
    overlap: Float64[np.ndarray, "I I"], levels: Mapping[str, Float64[np.ndarray, "I I"]], draws: Draws
) -> tuple[dict[str, np.ndarray], Float64[np.ndarray, "R C C"]]:
    """The category table of one measure: generality on the diagonal, overlap between categories off it.

    Args:
      overlap: of all pairs of instructions.
      levels: its chance levels, by column of `OVERLAP`.
      draws: the draws of the run.

    Returns:
      The `[C, C]` table of each value of a cell, by its column of `OVERLAP`: NaN in the cell of a category with fewer
      than two instructions, and without an interval in that of one with few; and the values of the bootstrap samples.
    """
    table = {"value": cell_means(overlap, draws.observed)[0]}
    table |= {name: cell_means(level, draws.observed)[0] for name, level in levels.items()}
    resampled = cell_means(overlap, draws.resampled)
    few = draws.observed[0].sum(axis=0) < LEAST_FOR_INTERVAL
    bounds = (np.where(few[:, None] | few, np.nan, end) for end in interval(resampled))
    return table | dict(zip(("ci_low", "ci_high"), bounds, strict=True)), resampled


def explained(overlap: Float64[np.ndarray, "I I"], run: Run, table: Float64[np.ndarray, "C C"]) -> dict[str, float]:
    """Share of the variance of all pairs' overlap (R2) that the two categories explain, and that the two lengths do.

    Args:
      overlap: of all pairs of instructions.
      run: the run.
      table: mean overlap of every two categories.

    Returns:
      `category`, by the means of the table, and `length`, by a plane in ln T_i + ln T_j and |ln T_i - ln T_j|.
    """
    first, second = np.triu_indices(len(overlap), k=1)
    values, length = overlap[first, second], np.log(run.token_count.astype(np.float64))
    by_category = table[run.category[first], run.category[second]]
    predictors = np.stack(
        [np.ones(len(values)), length[first] + length[second], np.abs(length[first] - length[second])]
    )
    weights = np.linalg.lstsq(predictors @ predictors.T, predictors @ values, rcond=None)[0]
    total = ((values - values.mean()) ** 2).sum() if len(values) else 0.0
    if total < TIE:
        return {"category": float("nan"), "length": float("nan")}
    left = {"category": values - by_category, "length": values - weights @ predictors}
    return {name: float(1 - (rest @ rest) / total) for name, rest in left.items()}


def measure_group(
    sets: Sets, group: Group, rho: float, draws: Draws, pairs: Sequence[Shuffles], odd: Bool[np.ndarray, "I"]
) -> GroupResult:
    """Measures one group of units.

    Args:
      sets: the sets of a run.
      group: the units.
      rho: share of a category's instructions that must hold a core unit.
      draws: the draws of the run.
      pairs: the shuffles of every two categories.
      odd: which S(i) are of odd size.
    """
    layers, layer_units = len(group.layers), group.unit_count // len(group.layers)
    with progress(f"evaluate {group.name}", 2 * layers, "layers") as bar:
        found = all_intersections(sets, group.name, bar.advance)
        overlap = overlaps(found.common, found.first)
        chance = overlaps(expected_of_all(found.first, layer_units), found.first)
        popular = overlaps(popularity.expected_of_all(sets, group.name, found.first), found.first)
        cells, contrasts = {}, {}
        for measure, of in overlap.items():
            levels = {"chance": chance[measure], "chance_popularity": popular[measure]}
            cells[measure], resampled = category_table(of, levels, draws)
            contrasts[measure] = [contrast(of, shuffles, resampled) for shuffles in pairs]
        shares = explained(overlap["jaccard"], sets.run, cells["jaccard"]["value"])
        core = core_sets(sets, group.name, rho)
        unique = uniqueness(sets, group.name, rho, core, draws, bar.advance)
    return GroupResult(group, cells, contrasts, shares, odd, core, found.first, unique)
