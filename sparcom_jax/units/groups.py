"""The groups of units that a model has: neurons of three kinds, and the experts themselves."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from sparcom_jax.models.config import DecoderConfig

NEURON_GROUPS = ("mlp", "shared", "routed")
EXPERT_GROUP = "expert"
"""Name under which the experts themselves are scored; their counts lie in `routed/selected_count`."""
TARGETS = {"neurons": NEURON_GROUPS, "experts": (EXPERT_GROUP,)}
"""By target, the groups whose units are chosen, switched off and compared together."""
DIMS = {
    "mlp": ("neuron",),
    "shared": ("neuron",),
    "routed": ("expert", "neuron"),
    EXPERT_GROUP: ("expert",),
}
"""Names of the unit axes of every group, after `layer`."""


@dataclass(frozen=True)
class Group:
    """Units of one kind: the neurons of the dense MLPs, of the shared experts, of the routed experts, or the experts.

    Attributes:
      name: `mlp`, `shared`, `routed` or `expert`.
      layers: the model's layer numbers that have such units, ascending.
      dims: names of the unit axes after `layer`, as in `DIMS`.
      sizes: sizes of those axes.
    """

    name: str
    layers: tuple[int, ...]
    dims: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the units, `(L, *sizes)`."""
        return (len(self.layers), *self.sizes)

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape of the units as bits (`units/bits.py`)."""
        return (*self.shape[:-1], math.ceil(self.shape[-1] / 8))

    @property
    def unit_count(self) -> int:
        """How many units there are."""
        return math.prod(self.shape)

    @property
    def dimension_names(self) -> tuple[str, ...]:
        """Names of the axes of `shape`."""
        return ("layer", *self.dims)

    @property
    def packed_dimension_names(self) -> tuple[str, ...]:
        """Names of the axes of `packed_shape`."""
        return (*self.dimension_names[:-1], f"{self.dims[-1]}_byte")

    def to_json(self) -> dict[str, Any]:
        """The form kept in the manifest."""
        return {"layers": list(self.layers), **dict(zip(self.dims, self.sizes, strict=True))}


def group_from_json(name: str, entry: dict[str, Any]) -> Group:
    """Reads back what `Group.to_json` wrote."""
    dims = tuple(key for key in entry if key != "layers")
    return Group(name, tuple(entry["layers"]), dims, tuple(int(entry[dim]) for dim in dims))


def expert_group(routed: Group) -> Group:
    """The group of the experts themselves, for a model whose routed neurons are `routed`."""
    return Group(EXPERT_GROUP, routed.layers, DIMS[EXPERT_GROUP], routed.sizes[:1])


def shapes(groups: Iterable[Group], *, named: bool = True) -> str:
    """The shapes of groups in words: `mlp 1 layer x 192, routed 4 layers x 8 x 48`."""
    told = []
    for group in groups:
        layers = f"{len(group.layers)} layer{'s' * (len(group.layers) > 1)}"
        told.append(" x ".join([f"{group.name} {layers}" if named else layers, *(f"{size:,}" for size in group.sizes)]))
    return ", ".join(told)


def model_groups(config: DecoderConfig) -> list[Group]:
    """The neuron groups of a model, in the order in which they are stored."""
    groups = []
    if dense := config.dense_layers:
        groups.append(Group("mlp", dense, DIMS["mlp"], (config.mlp_width,)))
    if config.experts and (sparse := config.moe_layers):
        if config.experts.shared_width:
            groups.append(Group("shared", sparse, DIMS["shared"], (config.experts.shared_width,)))
        groups.append(Group("routed", sparse, DIMS["routed"], (config.experts.count, config.experts.width)))
    return groups
