"""Controls: random units in the place of those of a category."""

from collections.abc import Iterator

import numpy as np

from sparcom_jax.causal.targets import Units


def random_units(units: Units, draws: int, random: np.random.Generator) -> Iterator[Units]:
    """Random units, as many in every layer of every group.

    Drawn without replacement from the layer's other units; where these are too few, the rest comes from the units
    themselves, so that the number is always met.

    Args:
      units: whose place they take.
      draws: how many times.
      random: source of the draws.
    """
    for _ in range(draws):
        drawn = {}
        for group, mask in units.items():
            flat = mask.reshape(len(mask), -1)
            chosen = np.zeros_like(flat)
            for layer, members in enumerate(flat):
                outside = random.permutation(np.flatnonzero(~members))
                inside = random.permutation(np.flatnonzero(members))
                chosen[layer, np.concatenate([outside, inside])[: members.sum()]] = True
            drawn[group] = chosen.reshape(mask.shape)
        yield drawn
