"""Names of units, as a page shows them and a user types them: `L12.N340`, `L7.S.N12`, `L7.E5.N12`, `L7.E5`."""

import re
from collections.abc import Mapping

from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import EXPERT_GROUP, Group

FORM = re.compile(r"L(\d+)(?:\.(S)|\.E(\d+))?(?:\.N(\d+))?")
"""Layer, then for a shared expert S or for a routed one its number, then the neuron; an expert itself has none."""


def unit_name(group: Group, index: tuple[int, ...]) -> str:
    """The name of a unit.

    Args:
      group: its group.
      index: its place in the group's arrays: index of the layer in the group, then of expert and neuron.
    """
    place, *within = index
    parts = [f"L{group.layers[place]}"]
    if group.name == "shared":
        parts.append("S")
    parts += [f"{dim[0].upper()}{at}" for dim, at in zip(group.dims, within, strict=True)]
    return ".".join(parts)


def unit_of(name: str, groups: Mapping[str, Group]) -> tuple[Group, tuple[int, ...]]:
    """The group of a unit, and its place in the group's arrays, by its name.

    Args:
      name: as `unit_name` gives it.
      groups: the groups that the model has.

    Raises:
      InputError: it is no such name, or the model has no such unit.
    """
    found = FORM.fullmatch(name)
    if found is None or not (found[3] or found[4]):
        raise InputError(f"unit {name!r} has no such form as L12.N340, L7.S.N12, L7.E5.N12 or L7.E5")
    layer, shared, expert, neuron = found.groups()
    kind = "shared" if shared else "mlp" if expert is None else EXPERT_GROUP if neuron is None else "routed"
    group = groups.get(kind)
    if group is None or int(layer) not in group.layers:
        raise InputError(f"unit {name!r}: layer {layer} of the model has no units of this kind")
    index = tuple(int(at) for at in (expert, neuron) if at is not None)
    if any(at >= size for at, size in zip(index, group.sizes, strict=True)):
        raise InputError(
            f"unit {name!r}: the model has {' x '.join(map(str, group.sizes))} units of this kind in a layer"
        )
    return group, (group.layers.index(int(layer)), *index)
