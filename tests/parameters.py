"""Parameters as NumPy arrays by their paths, and slices of them."""

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, abstract_params
from sparcom_jax.models.stored import stored_params
from sparcom_jax.units.groups import Group, expert_group, model_groups
from sparcom_jax.units.parameters import ParameterSlice, unit_slices

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])

Leaves = dict[str, np.ndarray]


def leaves_of(model: ModelDir) -> Leaves:
    """As they are stored: each layer's for itself."""
    leaves = [np.array(leaf) for leaf in jax.tree.leaves(model.restore(ONE, "float32"))]
    stored = stored_params(model.config)
    return {path: (leaves[at.leaf] if at.repeat is None else leaves[at.leaf][at.repeat]) for path, at in stored.items()}


def tree_of(config: DecoderConfig, leaves: Leaves) -> Params:
    """The tree that the decoder takes."""
    abstract, tree = jax.tree.flatten(abstract_params(config))
    whole = [np.zeros(leaf.shape, leaf.dtype) for leaf in abstract]
    for path, at in stored_params(config).items():
        whole[at.leaf][... if at.repeat is None else at.repeat] = leaves[path]
    params: Params = jax.tree.unflatten(tree, whole)
    return params


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
