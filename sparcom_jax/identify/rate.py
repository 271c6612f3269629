"""How often a unit is active at all: what an instruction's own activity is measured against."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from sparcom_jax.identify.rows import rows_of
from sparcom_jax.progress import progress
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import Group


def mean_rates(run: Run, groups: Mapping[str, Group]) -> dict[str, Float64[np.ndarray, "*units"]]:
    """Mean p of the units of some groups, over all instructions, every category counting alike.

    It is summed in the order of the instructions, in float64: the same counts give the same bits on any machine.

    Args:
      run: a run that keeps counts.
      groups: the groups, by name.

    Raises:
      InputError: the run keeps sets instead of the counts of a group, or the store fails.
    """
    sizes = np.bincount(run.category, minlength=len(run.categories))
    weights = 1 / (np.count_nonzero(sizes) * sizes[run.category] * run.token_count.astype(np.float64))
    rates = [np.zeros(group.unit_count) for group in groups.values()]
    with progress("mean rates", len(run.category), "instructions") as bar:
        for row, counts in rows_of(run, [run.count(name) for name in groups]):
            for rate, count in zip(rates, counts, strict=True):
                rate += weights[row] * count
            bar.advance(1)
    return {name: rate.reshape(group.shape) for (name, group), rate in zip(groups.items(), rates, strict=True)}
