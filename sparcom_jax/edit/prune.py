"""Units taken out of a checkpoint, as many of every layer, so that a smaller model of the same family is left.

Axis legend: L layers of a group, K units that are taken out of each.
"""

import itertools
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from sparcom_jax.convert.checkpoint import COPIED
from sparcom_jax.convert.export import ParameterTensors, write_tensors
from sparcom_jax.convert.hf_config import describe
from sparcom_jax.edit.source import EditedSource
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig, DenseMLP, Experts
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.parameters import NEURON_AXIS

SIZES = ("intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "num_experts",
         "num_local_experts", "n_routed_experts")  # fmt: skip
"""Fields of config.json that say how many neurons or experts there are."""

Removed = Mapping[str, Int64[np.ndarray, "L ... K"]]
"""By group, the places of what is taken out: of every layer, and of routed neurons of every expert."""


def chosen_units(source: EditedSource, target: str, count: int) -> Removed:
    """Of every layer, and of routed neurons of every expert, the units with the highest scores of the category.

    Args:
      source: the checkpoint, with units that have scores.
      target: `neurons` or `experts`.
      count: K.

    Raises:
      InputError: the units do not have all of the model's groups of the target, or a layer has too few.
    """
    groups = [name for name in TARGETS[target] if name in _all_groups(source.config)]
    lacking = [name for name in groups if name not in source.units.groups]
    if lacking or not groups:
        named = ", ".join(lacking) or target
        raise InputError(f"{source.name}: {source.units.title} have no scores of {named}, so that none can be taken "
                         f"out")  # fmt: skip
    removed = {}
    for name in groups:
        score = source.units.score[name][source.category]
        least = 1 if name != EXPERT_GROUP else _experts(source.config).per_token
        if score.shape[-1] - count < least:
            raise InputError(f"{source.name}: {count} of {score.shape[-1]} {name} units cannot be taken out of a "
                             f"layer: {least} must be left")  # fmt: skip
        removed[name] = np.sort(np.argsort(-score, axis=-1, kind="stable")[..., :count], axis=-1)
    if target == "experts" and _experts(source.config).groups > 1:
        raise InputError(f"{source.name}: its experts form groups, which would not be of one size")
    return removed


def _all_groups(config: DecoderConfig) -> list[str]:
    experts = config.experts
    found = ["mlp"] if config.dense_layers else []
    if experts:
        found += ["routed", EXPERT_GROUP, *(["shared"] if experts.shared_width else [])]
    return found


def _experts(config: DecoderConfig) -> Experts:
    assert config.experts is not None
    return config.experts


def write_pruned(source: EditedSource, removed: Removed, output: Path) -> None:
    """Writes the smaller checkpoint.

    Args:
      source: the checkpoint.
      removed: what is taken out.
      output: directory to fill, which is there and empty.

    Raises:
      InputError: the config of the family cannot say so.
    """
    smaller = _smaller(source.config, removed)
    raw = json.loads((source.directory / "config.json").read_text(encoding="utf-8"))
    for name in COPIED:
        if (source.directory / name).exists():
            shutil.copyfile(source.directory / name, output / name)
    (output / "config.json").write_text(json.dumps(_config_of(source, raw, smaller), indent=2), encoding="utf-8")
    tensors = ParameterTensors(smaller, _parameters(source, removed), source.weights.dtype)
    write_tensors(tensors, output)


def _smaller(config: DecoderConfig, removed: Removed) -> DecoderConfig:
    taken = {name: places.shape[-1] for name, places in removed.items()}

    def mlp(of: DenseMLP | Experts) -> DenseMLP | Experts:
        if isinstance(of, DenseMLP):
            return replace(of, width=of.width - taken.get("mlp", 0))
        return replace(of, count=of.count - taken.get(EXPERT_GROUP, 0), width=of.width - taken.get("routed", 0),
                       shared_width=of.shared_width - taken.get("shared", 0))  # fmt: skip

    return replace(config, layers=tuple(replace(layer, mlp=mlp(layer.mlp)) for layer in config.layers))


def _config_of(source: EditedSource, raw: dict[str, Any], smaller: DecoderConfig) -> dict[str, Any]:
    """The config.json whose model is the smaller one: which fields that takes is found by reading it again.

    Raises:
      InputError: none is.
    """
    old, new = _sizes(source.config), _sizes(smaller)
    changes = {size: new[name] for name, size in old.items() if new[name] != size}
    fields = [name for name in SIZES if raw.get(name) in changes]
    for count in range(1, len(fields) + 1):
        for some in itertools.combinations(fields, count):
            made = raw | {name: changes[raw[name]] for name in some}
            try:
                if describe(made).decoder == smaller:
                    return made
            except InputError:
                continue
    raise InputError(f"{source.name}: no config of {source.config.family} describes what would be left; edit without "
                     f"prune")  # fmt: skip


def _sizes(config: DecoderConfig) -> dict[str, int]:
    experts = config.experts
    found = {"mlp": config.mlp_width}
    if experts:
        found |= {"count": experts.count, "width": experts.width, "shared": experts.shared_width}
    return found


def _parameters(source: EditedSource, removed: Removed) -> Callable[[str], np.ndarray]:
    groups = source.units.groups

    @lru_cache(maxsize=4)  # of a layer's experts, every tensor asks for the parameter of all
    def parameter(path: str) -> np.ndarray:
        value = np.asarray(source.weights.read([path], lambda: None)[path])
        if not path.startswith("layers/"):
            return value
        _, number, within = path.split("/", 2)
        layer = int(number)
        for name, places in removed.items():
            if layer in groups[name].layers:
                value = _without(value, within, name, places[groups[name].layers.index(layer)])
        return value

    return parameter


def _without(value: np.ndarray, within: str, group: str, places: Int64[np.ndarray, "... K"]) -> np.ndarray:
    """A parameter of a layer without some units of a group."""
    start = {"mlp": "mlp/", "shared": "moe/shared/", "routed": "moe/routed/"}.get(group)
    if group == EXPERT_GROUP:
        if within.startswith("moe/routed/"):
            return np.delete(value, places, axis=0)
        return np.delete(value, places, axis=-1) if within.startswith("moe/router/") else value
    if start is None or not within.startswith(start):
        return value
    role = within.removeprefix(start).replace("/kernel", "").replace("/bias", "_bias")
    axis = {str(name): one for name, one in NEURON_AXIS.items()}.get(role)
    if axis is None:
        return value
    if group != "routed":
        return np.delete(value, places, axis=axis)
    return np.stack([np.delete(one, own, axis=axis) for one, own in zip(value, places, strict=True)])
