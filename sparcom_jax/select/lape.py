"""Language activation probability entropy (Tang et al. 2024, arXiv 2402.16438), with categories for languages.

Axis legend: I instructions, C categories, U units.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, UInt16

from sparcom_jax.select.flat import by_group, flat
from sparcom_jax.select.sample import Sample

LOWEST = 0.01
"""Share of the units that is chosen, those of lowest entropy."""
BAR = 0.95
"""Quantile of the activation probabilities of all units and categories. A unit below it in every category is left out,
and one that is chosen belongs to the categories in which it is above."""

Groups = Mapping[str, Float32[np.ndarray, "C *units"]]


def activation_probability(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "1 C U"]:
    """Share of a category's tokens at which a unit is active: tokens count alike, so long instructions weigh more.

    Args:
      counts: of the instructions of the sample, in its order.
      sample: the instructions.
    """
    weights = sample.members / np.maximum(sample.members @ sample.tokens, 1)[:, None]
    return np.asarray(_weighted(counts, weights.astype(np.float32)))[None]


@jax.jit
def _weighted(counts: UInt16[Array, "I U"], weights: Float32[Array, "C I"]) -> Float32[Array, "C U"]:
    """Weighted sums of the counts of every unit, in float32: whole numbers up to 2^24 are exact."""
    return jnp.matmul(weights, counts.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)


def lape(probability: Groups) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Scores of all units, and the units of each category by LAPE's own rule.

    With q = probability / its sum over categories, the entropy is H = -sum of q ln q. Units whose probability exceeds
    the bar nowhere are left out; of all units, the share `LOWEST` with the lowest H are chosen, ties by index; each
    belongs to the categories in which its probability exceeds the bar. All groups are ranked together. These are the
    rules of the paper's code, to its rounding.

    Args:
      probability: by group, from `activation_probability`.

    Returns:
      By group, the score: ln C - H where the unit may be chosen and its probability exceeds the bar, else 0; and the
      mask of the chosen.
    """
    categories = len(next(iter(probability.values())))
    values = flat(probability).astype(np.float64)
    above = values > _kth(values, BAR)
    gain = np.where(above.any(axis=0), np.log(categories) - _entropy(values), -np.inf)
    chosen = np.zeros(len(gain), bool)
    chosen[np.argsort(-gain, kind="stable")[: round(len(gain) * LOWEST)]] = True
    score, mask = np.where(above, gain, 0), above & chosen
    return by_group(score.astype(np.float32), probability), by_group(mask, probability)


def _kth(values: Float64[np.ndarray, "C U"], quantile: float) -> float:
    at = max(round(values.size * quantile), 1) - 1
    return float(np.partition(values.reshape(-1), at)[at])


def _entropy(values: Float64[np.ndarray, "C U"]) -> Float64[np.ndarray, "U"]:
    whole = values.sum(axis=0)
    share = np.divide(values, whole, out=np.zeros_like(values), where=whole > 0)
    return -(share * np.log(share, out=np.zeros_like(share), where=share > 0)).sum(axis=0)
