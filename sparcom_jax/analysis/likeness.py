"""What two models have in common whatever their architecture: where units lie in depth, and which categories share."""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import UInt16

from sparcom_jax.analysis.correlation import METHODS, correlate_tables
from sparcom_jax.analysis.depth import profile, relative_depth
from sparcom_jax.analysis.overlap import MEASURES, overlaps
from sparcom_jax.analysis.settings import CompareSettings
from sparcom_jax.analysis.sides import Side
from sparcom_jax.resampling import cell_means, length_strata, one_hot, shuffle_labels
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


def matrix_correlation(base: Side, tuned: Side, settings: CompareSettings) -> Rows:
    """Rows of `MATRIX_CORRELATION`: whether the two models agree on which categories overlap.

    Neurons of any kind correspond to neurons of any kind, experts only to experts. The labels are shuffled among
    instructions of similar length, for both models alike, and both tables made anew: lengths alone make tables of
    unrelated models alike, and relabelling the categories of one (a Mantel test) takes that for agreement.

    Args:
      base: one model.
      tuned: the other.
      settings: how many shuffles, within which strata, by which seed.
    """
    run, categories = base.run, len(base.run.categories)
    length = base.run.token_count.astype(np.int64) + tuned.run.token_count  # tokenizers may differ
    random = np.random.default_rng([settings.seed, 1])
    shuffled = shuffle_labels(run.category, length_strata(length, settings.stratum_rows), settings.permutations, random)
    weights = one_hot(np.concatenate([run.category[None], shuffled]), categories)
    first, second = category_tables(base, weights), category_tables(tuned, weights)
    for one in first:
        for other in second:
            if (one == EXPERT_GROUP) != (other == EXPERT_GROUP):
                continue
            for measure in MEASURES:
                for cells in ("all", "between"):
                    found = correlate_tables(first[one][measure], second[other][measure], diagonal=cells == "all")
                    tested = [part[method] for method in METHODS for part in (found.value, found.null, found.p_value)]
                    yield one, other, measure, cells, found.cells, *tested, settings.permutations


def category_tables(side: Side, weights: UInt16[np.ndarray, "R I C"]) -> dict[str, dict[str, np.ndarray]]:
    """Mean overlap within and between categories, `[R, C, C]`, by group and measure."""
    return {
        name: {measure: cell_means(overlap, weights) for measure, overlap in overlaps(of.common, of.first).items()}
        for name, of in side.intersections.items()
    }
