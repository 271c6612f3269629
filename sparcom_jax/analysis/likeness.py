"""What two models have in common whatever their architecture: where units lie in depth, and which categories share."""

from collections.abc import Iterator, Sequence

import numpy as np

from sparcom_jax.analysis.correlation import METHODS, correlate_tables
from sparcom_jax.analysis.depth import profile, relative_depth
from sparcom_jax.analysis.overlap import MEASURES, all_overlaps
from sparcom_jax.analysis.sides import Side
from sparcom_jax.resampling import cell_means, one_hot
from sparcom_jax.units.groups import EXPERT_GROUP

GRID = np.linspace(0, 1, 11)
"""Relative depths of the profiles."""

Rows = Iterator[Sequence[object]]


def depth_profile(*sides: Side) -> Rows:
    """Rows of `DEPTH_PROFILE`: share of a layer's units that are core, or in S(i) on average, on a common grid."""
    for side in sides:
        for name, group in side.sets.groups.items():
            depth = relative_depth(side.run, group)
            layer_units = side.core[name].shape[2]
            core = profile(side.core[name].mean(axis=2), depth, GRID)
            held = profile(side.set_size[name] / layer_units, depth, GRID)
            for c, category in enumerate(side.run.categories):
                for at, place in enumerate(GRID):
                    yield side.role, name, category, place, core[c, at], held[c, at]


def matrix_correlation(base: Side, tuned: Side, permutations: int, seed: int) -> Rows:
    """Rows of `MATRIX_CORRELATION`: whether the two models agree on which categories overlap.

    Neurons of any kind correspond to neurons of any kind, experts only to experts.

    Args:
      base: one model.
      tuned: the other.
      permutations: most relabellings of the categories.
      seed: of the relabellings.
    """
    first, second = category_tables(base), category_tables(tuned)
    for one in first:
        for other in second:
            if (one == EXPERT_GROUP) != (other == EXPERT_GROUP):
                continue
            for measure in MEASURES:
                for cells in ("all", "between"):
                    found = correlate_tables(first[one][measure], second[other][measure], diagonal=cells == "all",
                                             permutations=permutations, seed=seed)  # fmt: skip
                    tested = [part[method] for method in METHODS for part in (found.value, found.p_value)]
                    yield one, other, measure, cells, found.cells, *tested, found.shuffles, int(found.exact)


def category_tables(side: Side) -> dict[str, dict[str, np.ndarray]]:
    """Mean overlap within and between categories, `[C, C]`, by group and measure."""
    observed = one_hot(side.run.category[None], len(side.run.categories))
    tables = {}
    for name, group in side.sets.groups.items():
        overlaps = all_overlaps(side.intersections[name], group.unit_count // len(group.layers))
        tables[name] = {measure: cell_means(overlap, observed)[0] for measure, (overlap, _) in overlaps.items()}
    return tables
