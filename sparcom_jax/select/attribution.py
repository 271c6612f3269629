"""What units contribute to the responses of a category beyond what they do to others: a difference of attributions.

Axis legend: I instructions, C categories.
"""

import numpy as np
from jaxtyping import Float, Float32

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.select.sample import Sample
from sparcom_jax.store.attribution import Attribution


def less_others(means: Float[np.ndarray, "C *units"]) -> Float[np.ndarray, "C *units"]:
    """The mean of each category less the mean of the other categories' means, which weigh alike whatever their size.

    Args:
      means: by category; one without instructions is NaN, and of no other's mean.
    """
    known = np.isfinite(means)
    others = known.sum(axis=0) - known
    total = np.where(known, means, 0)
    return np.where(known & (others > 0), means - (total.sum(axis=0) - total) / np.maximum(others, 1), np.nan)


def over_others(attribution: Attribution, sample: Sample) -> dict[str, Float32[np.ndarray, "C *units"]]:
    """What every unit contributes to every category beyond the others, by group, in nats per token.

    Args:
      attribution: what units contribute to the response of each instruction.
      sample: the instructions that choose; of these, those that are attributed.

    Raises:
      InputError: none of a category is attributed.
    """
    rows = np.zeros(len(attribution.run.category), bool)
    rows[sample.rows] = True
    run, counts = attribution.run, rows[attribution.rows]
    if lacking := [
        name for index, name in enumerate(run.categories) if not (attribution.category[counts] == index).any()
    ]:
        raise InputError(f"{run.location}: no instructions of {first_of(lacking)} that choose are attributed; run "
                         f"attribute for more (per_category)")  # fmt: skip
    return {
        group: np.nan_to_num(less_others(attribution.category_means(group, rows))).astype(np.float32)
        for group in attribution.groups
    }
