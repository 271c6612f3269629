"""Controls: random units in the place of those of a category, alike in layer and number, or in frequency too.

Axis legend: L layers of a group; `*units` is the shape of a group's units, `L` first.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from jaxtyping import Float, Int64

from sparcom_jax.causal.targets import Units

DECILES = 10
CONTROLS = {
    "random": "random units of the same layer and group, as many",
    "random_matched": "random units of the same layer, group and decile of frequency within the layer, as many",
}
"""The controls by name, which is the kind of their rows in the tables."""

Bins = Mapping[str, Int64[np.ndarray, "L _"]]
"""By group, a number for each unit of a layer: units are drawn from those of the same number."""


def layer_bins(units: Units) -> Bins:
    """All units of a layer in one bin."""
    return {group: np.zeros((len(mask), mask[0].size), np.int64) for group, mask in units.items()}


def frequency_bins(rate: Mapping[str, Float[np.ndarray, "*units"]]) -> Bins:
    """The deciles of each layer's units by frequency, units that tie by index; fewer where there are not 20 units.

    Args:
      rate: of each unit, by group.
    """
    bins = {}
    for group, values in rate.items():
        flat = values.reshape(len(values), -1)
        rank = np.argsort(np.argsort(flat, axis=1, kind="stable"), axis=1, kind="stable")
        bins[group] = rank * max(min(DECILES, flat.shape[1] // 2), 1) // flat.shape[1]
    return bins


def random_units(units: Units, bins: Bins, draws: int, random: np.random.Generator) -> Iterator[Units]:
    """Random units, as many in every layer and bin of every group.

    They are drawn without replacement from all units of the layer and bin, those of the category among them: only then
    are the category's units one draw among others where nothing sets them apart.

    Args:
      units: whose place they take.
      bins: from `layer_bins` or `frequency_bins`.
      draws: how many times.
      random: source of the draws.
    """
    for _ in range(draws):
        drawn = {}
        for group, mask in units.items():
            flat = mask.reshape(len(mask), -1)
            chosen = np.zeros_like(flat)
            for layer, members in enumerate(flat):
                of = bins[group][layer]
                for number, wanted in zip(*np.unique(of[members], return_counts=True), strict=True):
                    chosen[layer, random.choice(np.flatnonzero(of == number), wanted, replace=False)] = True
            drawn[group] = chosen.reshape(mask.shape)
        yield drawn
