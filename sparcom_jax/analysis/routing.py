"""How far categories are routed apart: the experts' shares of every category's tokens, against shuffled labels.

Axes: R draws, C categories, L layers, E experts.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sparcom_jax.analysis.depth import relative_depth
from sparcom_jax.analysis.drift import routing_distribution
from sparcom_jax.resampling import Draws, benjamini_hochberg, category_means, mean_of_draws, one_sided_p
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import EXPERT_GROUP

Rows = Iterator[Sequence[object]]


@dataclass(frozen=True)
class Routing:
    """What is found of the routing of a run.

    Attributes:
      share: mean over a category's instructions of the share of their routing that an expert receives.
      elsewhere: mean of the shares of the other categories.
      distance: total variation distance of the two, 0 to 1.
      null_mean: mean distance of labels shuffled within strata of length.
      p_value: share of the shuffles with a distance at least as large, one-sided.
    """

    share: Float64[np.ndarray, "C L E"]
    elsewhere: Float64[np.ndarray, "C L E"]
    distance: Float64[np.ndarray, "C L"]
    null_mean: Float64[np.ndarray, "C L"]
    p_value: Float64[np.ndarray, "C L"]


def routing(run: Run, draws: Draws) -> Routing | None:
    """How far the categories are routed apart; None for a model without experts, or of one category."""
    if EXPERT_GROUP not in run.groups or len(run.categories) < 2:
        return None
    shares = routing_distribution(run)
    found = []
    for layer in range(shares.shape[1]):
        values = shares[:, layer].astype(np.float64)
        own = category_means(values, draws.observed)
        null = _distance(category_means(values, draws.shuffled))
        distance = _distance(own)[0]
        found.append((own[0], _elsewhere(own)[0], distance, mean_of_draws(null), one_sided_p(distance, null)))
    return Routing(*(np.stack(part, axis=1) for part in zip(*found, strict=True)))


def share_rows(run: Run, found: Routing) -> Rows:
    """Rows of `ROUTING`."""
    for c, category, at, layer, depth in _places(run):
        for expert, (own, other) in enumerate(zip(found.share[c, at], found.elsewhere[c, at], strict=True)):
            yield category, layer, depth, expert, own, other


def distance_rows(run: Run, found: Routing) -> Rows:
    """Rows of `ROUTING_DISTANCE`."""
    q_value = benjamini_hochberg(found.p_value.ravel()).reshape(found.p_value.shape)
    for c, category, at, layer, depth in _places(run):
        values = (table[c, at] for table in (found.distance, found.null_mean, found.p_value, q_value))
        yield category, layer, depth, *values


def _places(run: Run) -> Iterator[tuple[int, str, int, int, float]]:
    group = run.groups[EXPERT_GROUP]
    depths = relative_depth(run, group)
    for c, category in enumerate(run.categories):
        for at, layer in enumerate(group.layers):
            yield c, category, at, layer, float(depths[at])


def _elsewhere(means: Float64[np.ndarray, "R C E"]) -> Float64[np.ndarray, "R C E"]:
    """Mean over the other categories, those without instructions left out."""
    known = np.isfinite(means)
    total, count = np.where(known, means, 0.0).sum(axis=1, keepdims=True), known.sum(axis=1, keepdims=True)
    others = count - known
    return np.divide(total - np.where(known, means, 0.0), others, out=np.full(means.shape, np.nan), where=others > 0)


def _distance(means: Float64[np.ndarray, "R C E"]) -> Float64[np.ndarray, "R C"]:
    return np.abs(means - _elsewhere(means)).sum(axis=2) / 2
