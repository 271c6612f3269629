"""Which units are held by the same instructions.

Axis legend: I instructions, n chosen units, U units of a layer.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float32

from sparcom_jax.store.sets import Sets
from sparcom_jax.units.groups import Group
from sparcom_jax.units.names import unit_name

Index = tuple[int, ...]


def neighbours(
    sets: Sets, groups: Mapping[str, Group], chosen: Sequence[tuple[str, Index]], count: int
) -> list[list[tuple[str, float]]]:
    """The units whose S(i) hold them for most of the same instructions, by the Jaccard index.

    Args:
      sets: the sets.
      groups: among which units neighbours are sought, in one pass over their masks.
      chosen: whose neighbours are sought, by group and place.
      count: of each, at most so many, with an index above 0.

    Returns:
      Of each, names and indices, the most alike first; units that tie come in the order of groups and places.
    """
    held = _held(sets, chosen)
    size = held.sum(axis=1)
    best: list[list[tuple[float, str]]] = [[] for _ in chosen]
    for name, group in groups.items():
        for layer in range(len(group.layers)):
            mask = sets.layer_mask(name, layer).astype(np.float32)
            both = held @ mask
            either = size[:, None] + mask.sum(axis=0) - both
            jaccard = np.where(either > 0, both / np.maximum(either, 1), 0)
            for number, (of, index) in enumerate(chosen):
                if of == name and index[0] == layer:
                    jaccard[number, np.ravel_multi_index(index[1:], group.sizes)] = 0  # itself
            top = np.argsort(-jaccard, axis=1, kind="stable")[:, :count]
            for number, units in enumerate(top):
                places = (tuple(map(int, np.unravel_index(unit, group.sizes))) for unit in units)
                named = (unit_name(group, (layer, *place)) for place in places)
                found = [*best[number], *zip(jaccard[number, units].tolist(), named, strict=True)]
                best[number] = sorted(found, key=lambda one: -one[0])[:count]
    return [[(name, value) for value, name in found if value > 0] for found in best]


def _held(sets: Sets, chosen: Sequence[tuple[str, Index]]) -> Float32[np.ndarray, "n I"]:
    """Which instructions hold each unit; a layer is read once."""
    held = np.zeros((len(chosen), len(sets.run.category)), np.float32)
    for name, layer in dict.fromkeys((name, index[0]) for name, index in chosen):
        mask = sets.layer_mask(name, layer)
        for number, (of, index) in enumerate(chosen):
            if (of, index[0]) == (name, layer):
                held[number] = mask[:, np.ravel_multi_index(index[1:], sets.groups[name].sizes)]
    return held
