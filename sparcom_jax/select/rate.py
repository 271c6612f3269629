"""How often a unit is active at all: what a control is matched on.

Axis legend: I instructions, C categories, U units.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt16

from sparcom_jax.select.counts import measure_units
from sparcom_jax.select.sample import Sample
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import Group


def category_rates(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "1 C U"]:
    """Mean p of every unit over the instructions of every category.

    Args:
      counts: of the instructions of the sample, in its order.
      sample: the instructions.
    """
    weights = sample.members / (np.maximum(sample.sizes, 1)[:, None] * sample.tokens)
    return np.asarray(weighted(counts, weights.astype(np.float32)))[None]


@jax.jit
def weighted(counts: UInt16[Array, "I U"], weights: Float32[Array, "C I"]) -> Float32[Array, "C U"]:
    """Weighted sums of the counts of every unit, in float32: whole numbers up to 2^24 are exact."""
    return jnp.matmul(weights, counts.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def mean_rates(run: Run, groups: Mapping[str, Group]) -> dict[str, Float32[np.ndarray, "*units"]]:
    """Mean p of the units of some groups, over all instructions, every category counting alike.

    Args:
      run: a run that keeps counts.
      groups: the groups, by name.

    Raises:
      InputError: the run keeps sets instead of counts, or the store fails.
    """
    everything = np.ones(len(run.category), bool)
    sample = Sample.of(run, everything, control_length=False)
    found = measure_units(run, groups, sample, {"rate": category_rates})["rate"]
    return {group: values[0].mean(axis=0) for group, values in found.items()}
