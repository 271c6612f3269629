"""Which units tuning gained and lost: those whose share of a category's instructions changed most, by name.

Axes: C categories, units flattened to U.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, UInt16
from scipy import stats

from sparcom_jax.analysis.sides import Side
from sparcom_jax.resampling import benjamini_hochberg
from sparcom_jax.units.names import unit_name

MOST = 50
"""Units of a group and category that are named."""


def changed_units(base: Side, tuned: Side) -> Iterator[Sequence[object]]:
    """Rows of `CHANGED_UNITS`: of each group and category the units whose membership changed most.

    P-values are those of Fisher's exact test, two-sided by doubling, as if the two models had read different
    instructions; they read the same, so that it is conservative. Q-values are over all units and categories of a group.
    """
    sizes = base.sets.category_sizes
    for name, group in base.sets.groups.items():
        before, after = (side.sets.membership(name).reshape(len(sizes), -1) for side in (base, tuned))
        p = np.stack([_fisher(before[c], after[c], int(size)) for c, size in enumerate(sizes)])
        q = benjamini_hochberg(p.ravel()).reshape(p.shape)
        cores = [side.core[name].reshape(len(sizes), -1) for side in (base, tuned)]
        for c, category in enumerate(base.run.categories):
            change = (after[c].astype(np.float64) - before[c]) / max(sizes[c], 1)
            moved = np.argsort(-np.abs(change), kind="stable")[:MOST]
            for unit in moved[change[moved] != 0].tolist():
                place = tuple(int(at) for at in np.unravel_index(unit, group.shape))
                was, is_now = (bool(core[c, unit]) for core in cores)
                kept = {(True, True): "retained", (False, True): "gained", (True, False): "lost"}.get((was, is_now), "")
                yield (name, category, unit_name(group, place), group.layers[place[0]], before[c, unit] / sizes[c],
                       after[c, unit] / sizes[c], change[unit], p[c, unit], q[c, unit], kept)  # fmt: skip


def _fisher(before: UInt16[np.ndarray, "U"], after: UInt16[np.ndarray, "U"], size: int) -> Float64[np.ndarray, "U"]:
    """P-values of two counts among `size` instructions each; equal pairs of counts are tested once."""
    pairs, which = np.unique(np.stack([before, after], axis=1).astype(np.int64), axis=0, return_inverse=True)
    held, other = pairs.T
    drawn = stats.hypergeom(2 * size, held + other, size)
    return np.minimum(2 * np.minimum(drawn.cdf(held), drawn.sf(held - 1)), 1.0)[which.ravel()]
