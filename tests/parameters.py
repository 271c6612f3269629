"""Parameters as NumPy arrays by their paths, and slices of them."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.convert.names import path_name
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.units.groups import Group, expert_group, model_groups
from sparcom_jax.units.parameters import ParameterSlice, unit_slices

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

Leaves = dict[str, np.ndarray]


def leaves_of(model: ModelDir) -> Leaves:
    found, _ = jax.tree.flatten_with_path(model.restore(ONE, "float32"))
    return {path_name(path): np.array(leaf) for path, leaf in found}


def tree_of(leaves: Leaves) -> dict[Any, Any]:
    """The tree that has these leaves."""
    tree: dict[Any, Any] = {}
    for path, leaf in leaves.items():
        *above, last = (int(name) if name.isdigit() else name for name in path.split("/"))
        node = tree
        for name in above:
            node = node.setdefault(name, {})
        node[last] = leaf
    return tree


def with_value(leaves: Leaves, slices: Iterable[ParameterSlice], value: float = 0.0) -> Leaves:
    changed = {path: leaf.copy() for path, leaf in leaves.items()}
    for one in slices:
        changed[one.path][one.index][one.within] = value
    return changed


def groups_of(config: DecoderConfig) -> dict[str, Group]:
    groups = {group.name: group for group in model_groups(config)}
    return groups | ({"expert": expert_group(groups["routed"])} if "routed" in groups else {})


def slices_of(config: DecoderConfig, group: Group, mask: np.ndarray) -> list[ParameterSlice]:
    pairs = zip(group.layers, mask, strict=True)
    return [one for layer, units in pairs for one in unit_slices(config, group.name, layer, np.argwhere(units))]


def some_units(groups: Mapping[str, Group]) -> Leaves:
    """Random neurons, and one expert of each layer."""
    random = np.random.default_rng(0)
    masks = {name: random.random(group.shape) < 0.3 for name, group in groups.items()}
    if "expert" in masks:
        masks["expert"][:] = False
        for layer, mask in enumerate(masks["expert"]):
            mask[(3 * layer + 1) % len(mask)] = True
    return masks
