"""How well a unit's frequency finds a category: average precision (Suau et al. 2020, arXiv 2005.07647).

Axis legend: I instructions, C categories, U units.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float32, UInt16

from sparcom_jax.select.auroc import standing
from sparcom_jax.select.sample import Sample


def average_precision(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "1 C U"]:
    """Average precision of every unit as a detector of every category.

    The sum over thresholds of (recall - recall at the threshold above) precision, instructions that tie sharing one
    threshold. Where length is controlled the detector is not p but the share of its stratum of length that the
    instruction exceeds less the share that exceeds it, which no length decides.

    Args:
      counts: of the instructions of the sample, in its order.
      sample: the instructions.
    """
    detector = _relative(counts, sample) if sample.control_length else sample.frequency(counts)
    return _average_precision(detector, sample)[None]


def _relative(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "I U"]:
    filled = sample.strata >= 0
    rank = np.asarray(standing(jnp.asarray(counts), jnp.asarray(sample.tokens, jnp.int32), jnp.asarray(sample.strata)))
    relative = np.empty(counts.shape, np.float32)
    relative[sample.strata[filled]] = (rank / np.maximum(filled.sum(axis=1) - 1, 1)[:, None, None])[filled]
    return relative


def _average_precision(detector: Float[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "C U"]:
    order = np.argsort(-detector, axis=0, kind="stable")
    ordered = np.take_along_axis(detector, order, axis=0)
    last = np.ones(ordered.shape, bool)  # of those that tie: the threshold lets all of them in
    last[:-1] = ordered[1:] != ordered[:-1]
    found = np.arange(1, len(ordered) + 1, dtype=np.float32)[:, None]
    scores = []
    for category, size in enumerate(sample.sizes):
        hits = np.cumsum(sample.labels[order] == category, axis=0, dtype=np.float32)
        at_threshold = np.where(last, hits, 0)
        before = np.zeros_like(at_threshold)
        np.maximum.accumulate(at_threshold[:-1], axis=0, out=before[1:])
        gained = np.where(last, hits - before, 0)
        scores.append((gained * hits / found).sum(axis=0) / max(int(size), 1))
    return np.stack(scores).astype(np.float32)
