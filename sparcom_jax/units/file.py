"""Units in a file of their own: one safetensors file, which any program can read.

A tensor `GROUP/CATEGORY` is the mask of a category's units, bool `[L, ...]`; the metadata hold `categories`, `groups`
and `origin` as JSON. The file has no scores.
"""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sparcom_jax.errors import InputError
from sparcom_jax.strict_json import loads
from sparcom_jax.units.groups import DIMS, Group, group_from_json
from sparcom_jax.units.unit_set import UnitSet

FORMAT = "sparcom units 1"


def to_safetensors(unit_set: UnitSet) -> bytes:
    """The content of the file of a unit set."""
    tensors = {
        f"{group}/{category}": mask[index]
        for group, mask in unit_set.mask.items()
        for index, category in enumerate(unit_set.categories)
    }
    told: dict[str, Any] = {
        "categories": list(unit_set.categories),
        "groups": {name: group.to_json() for name, group in unit_set.groups.items()},
        "origin": dict(unit_set.origin),
    }
    metadata = {"format": FORMAT} | {field: json.dumps(value) for field, value in told.items()}
    return bytes(save({name: np.ascontiguousarray(mask) for name, mask in tensors.items()}, metadata))


def write_safetensors(unit_set: UnitSet, path: str | Path) -> None:
    """Writes the masks of a unit set as a safetensors file, which appears whole or not at all.

    Raises:
      InputError: the file cannot be written.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(to_safetensors(unit_set))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def read_safetensors(path: str | Path) -> UnitSet:
    """Reads a file that `write_safetensors` wrote; a unit's score is 1 where it is the category's, else 0.

    Raises:
      InputError: the file is missing, malformed, or holds something else.
    """
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    if metadata.get("format") != FORMAT:
        raise InputError(f"{path}: metadata field 'format' is {metadata.get('format')!r}, not {FORMAT!r}")
    categories, entries, origin = (
        _field(metadata, field, kind, str(path))
        for field, kind in (("categories", list), ("groups", dict), ("origin", dict))
    )
    if not all(isinstance(category, str) for category in categories):
        raise InputError(f"{path}: metadata field 'categories' must be a list of strings")
    groups = {name: _group(name, entry, str(path)) for name, entry in entries.items()}
    expected = {f"{group}/{category}": groups[group].shape for group in groups for category in categories}
    if unlike := sorted(expected.keys() ^ tensors.keys()):
        what = "missing" if unlike[0] in expected else "unexpected"
        raise InputError(f"{path}: tensor {unlike[0]!r} is {what}")
    for name, tensor in tensors.items():
        if tensor.dtype != np.bool_ or tensor.shape != expected[name]:
            raise InputError(f"{path}: tensor {name!r} is {tensor.dtype} {list(tensor.shape)}, "
                             f"not bool {list(expected[name])}")  # fmt: skip
    mask = {group: np.stack([tensors[f"{group}/{category}"] for category in categories]) for group in groups}
    try:
        return UnitSet(categories, groups, {name: m.astype(np.float32) for name, m in mask.items()}, mask, origin)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def _field(metadata: dict[str, str], field: str, kind: type, where: str) -> Any:
    if field not in metadata:
        raise InputError(f"{where}: no metadata field {field!r}")
    value = loads(metadata[field], f"{where}: metadata field {field!r}")
    if not isinstance(value, kind) or not value:
        raise InputError(f"{where}: metadata field {field!r} must be a non-empty {kind.__name__}")
    return value


def _group(name: str, entry: Any, where: str) -> Group:
    dims = DIMS.get(name)
    if dims is None or not isinstance(entry, dict) or [*entry] != ["layers", *dims]:
        raise InputError(f"{where}: metadata field 'groups': {name!r} is no group of units, or not described as one")
    layers = entry["layers"]
    numbers = [*layers, *(entry[dim] for dim in dims)] if isinstance(layers, list) and layers else [None]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise InputError(f"{where}: metadata field 'groups': the layers and sizes of {name!r} must be whole numbers")
    return group_from_json(name, entry)
