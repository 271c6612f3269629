"""Where in the depth of a model units lie, from 0 (first layer) to 1 (last layer). Axes: C categories, L layers."""

import numpy as np
from jaxtyping import Float64, Num
from scipy.special import rel_entr
from scipy.stats import wasserstein_distance

from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import Group


def relative_depth(run: Run, group: Group) -> Float64[np.ndarray, "L"]:
    """Layer number / (number of layers - 1) of the layers of a group; 0 in a model of one layer."""
    last = max(run.manifest.model.num_layers - 1, 1)
    return np.asarray(group.layers, np.float64) / last


def profile(shares: Float64[np.ndarray, "C L"], depth: Float64[np.ndarray, "L"], grid: Float64[np.ndarray, "G"]
            ) -> Float64[np.ndarray, "C G"]:  # fmt: skip
    """Shares per layer, interpolated linearly onto a common grid of depths.

    Args:
      shares: a quantity per layer.
      depth: relative depth of the layers, ascending.
      grid: depths to read it at; outside the layers the nearest layer counts.
    """
    return np.stack([np.interp(grid, depth, row) for row in shares])


def mean_depth(mass: Num[np.ndarray, "L"], depth: Float64[np.ndarray, "L"]) -> float:
    """Mean relative depth of a distribution over layers; NaN where it is empty."""
    return float(mass @ depth / mass.sum()) if mass.sum() > 0 else float("nan")


def wasserstein(base: Num[np.ndarray, "L"], tuned: Num[np.ndarray, "L"], depth: Float64[np.ndarray, "L"]) -> float:
    """Wasserstein-1 distance over relative depth between two distributions over layers; NaN where one is empty.

    Args:
      base: mass per layer; it is normalised.
      tuned: the same of the other model.
      depth: relative depth of the layers.
    """
    if not (base.sum() > 0 and tuned.sum() > 0):
        return float("nan")
    return float(wasserstein_distance(depth, depth, base, tuned))


def jensen_shannon(base: Num[np.ndarray, "L"], tuned: Num[np.ndarray, "L"]) -> float:
    """Jensen-Shannon divergence in bits (0 to 1) between two distributions over layers; NaN where one is empty.

    Lin 1991, IEEE Trans. Inf. Theory 37:145.

    Args:
      base: mass per layer; it is normalised.
      tuned: the same of the other model.
    """
    if not (base.sum() > 0 and tuned.sum() > 0):
        return float("nan")
    p, q = base / base.sum(), tuned / tuned.sum()
    middle = (p + q) / 2
    nats = (rel_entr(p, middle).sum() + rel_entr(q, middle).sum()) / 2
    return float(max(nats / np.log(2), 0.0))
