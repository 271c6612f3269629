"""The sets of units that `identify` writes beside a run: who is in S(i), per instruction and per category."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Float64, Int64, Integer, UInt16, UInt32

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.shares import least_whole_of_each
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.schema import SCHEMA_VERSION, ArraySpec, mask_array, vector
from sparcom_jax.store.shown import show_sets
from sparcom_jax.units.bits import unpack
from sparcom_jax.units.groups import Group

DEFAULT_SET = "excess"
"""Name of the set that is written and read where none is named."""


def sets_path(name: str) -> str:
    """Path of a set below its run."""
    return f"sets/{name}"


def required_members(sizes: Integer[np.ndarray, "C"], rho: float) -> Int64[np.ndarray, "C"]:
    """The fewest instructions that make a unit core: the least m with m >= rho |c|, and one at least.

    Args:
      sizes: |c|, the instructions of each category.
      rho: share of them that must hold the unit, in (0, 1].
    """
    return np.maximum(least_whole_of_each(rho, sizes), 1)


def set_arrays(name: str, group: Group, rows: int, rows_per_write: int, categories: int) -> list[ArraySpec]:
    """The arrays of one group of a set.

    Args:
      name: name of the set.
      group: the units.
      rows: number of instructions I.
      rows_per_write: instructions in one written block.
      categories: number of categories C.
    """
    path = f"{sets_path(name)}/{group.name}"
    return [
        mask_array(f"{path}/mask", group, rows, rows_per_write),
        vector(f"{path}/size", "uint32", "instruction", rows),
        vector(f"{path}/cut", "float64", "instruction", rows),
        ArraySpec(f"{path}/membership", "uint16", (categories, *group.shape), ("category", *group.dimension_names),
                  (1, *group.shape), (1, 1, *group.shape[1:])),
    ]  # fmt: skip


@dataclass(frozen=True)
class SetManifest:
    """How a set was made.

    Attributes:
      selection: selector, epsilon, ties and whatever else decided who is in.
      groups: the groups that have sets.
      digest: of the selection, of what the run was captured from, and of the masks: tells one version of a set from
        another.
    """

    selection: dict[str, Any]
    groups: list[str]
    digest: str

    def to_json(self) -> dict[str, Any]:
        """The manifest as the attributes of a set."""
        return {"schema_version": SCHEMA_VERSION, **self.selection, "groups": self.groups, "digest": self.digest}


class Sets:
    """S(i) for all instructions of a run. Axes as in `Run`; C categories.

    Attributes:
      run: the run that the sets belong to.
      name: name of the set.
      manifest: how it was made.
      groups: the groups that have sets, by name.
    """

    def __init__(self, run: Run, name: str, manifest: SetManifest) -> None:
        self.run = run
        self.name = name
        self.manifest = manifest
        self.groups = {group: run.groups[group] for group in manifest.groups}

    def __repr__(self) -> str:
        return show_sets(self).text()

    def _repr_html_(self) -> str:
        return show_sets(self).html()

    @property
    def digest(self) -> str:
        """The digest of the manifest."""
        return self.manifest.digest

    def record(self) -> dict[str, Any]:
        """What results say of the sets that they were made from."""
        return {"name": self.name, "run": self.run.address, **self.manifest.to_json()}

    def require_units(self) -> None:
        """Refuses sets of which one S(i) is empty: it would count as an overlap of 0, and as holding no unit.

        Raises:
          InputError: an instruction has no unit of some group.
        """
        for group in self.groups:
            empty = np.bincount(self.run.category[self.size(group) == 0], minlength=len(self.run.categories))
            if empty.any():
                named = first_of(f"{name} {n}" for name, n in zip(self.run.categories, empty, strict=True) if n)
                raise InputError(f"{self.run.location}: set {self.name!r}: S(i) has no unit of {group} for "
                                 f"{empty.sum()} of {self.run.category.size} instructions ({named}); identify with "
                                 f"other ties, a larger epsilon, a lower threshold or without pool")  # fmt: skip

    @property
    def category_sizes(self) -> Int64[np.ndarray, "C"]:
        """|c|, the instructions of each category."""
        return self.sizes_of(None)

    def sizes_of(self, rows: Int64[np.ndarray, "_"] | None) -> Int64[np.ndarray, "C"]:
        """The same among some instructions; among all, where None."""
        labels = self.run.category if rows is None else self.run.category[rows]
        return np.bincount(labels, minlength=len(self.run.categories))

    def mask(self, group: str) -> ts.TensorStore:
        """Packed membership `[I, *units[:-1], ceil(units[-1] / 8)]` uint8."""
        return self._open(group, "mask")

    def layer_mask(self, group: str, layer: int) -> Bool[np.ndarray, "I U"]:
        """Membership of all instructions in the units of one layer, flattened.

        Args:
          group: name of the group.
          layer: index into the group's layers (not the model's layer number).
        """
        packed = finished(self.mask(group)[:, layer].read(), self.run.location)
        return unpack(packed, self.groups[group].shape[-1]).reshape(len(packed), -1)

    def size(self, group: str) -> UInt32[np.ndarray, "I"]:
        """|S(i)|."""
        return self._read(group, "size")

    def cut(self, group: str) -> Float64[np.ndarray, "I"]:
        """Where S(i) was cut: a frequency, or with the selector `excess` a z."""
        return self._read(group, "cut")

    def membership(self, group: str, rows: Int64[np.ndarray, "_"] | None = None) -> UInt16[np.ndarray, "C *units"]:
        """m[c, u], the number of instructions of category c whose S(i) holds unit u.

        Args:
          group: name of the group.
          rows: the instructions that are counted, from their masks, layer by layer; all by default.
        """
        if rows is None:
            return self._read(group, "membership")
        of, labels = self.groups[group], self.run.category[rows]
        found = np.zeros((len(self.run.categories), len(of.layers), math.prod(of.sizes)), np.uint16)
        for layer in range(len(of.layers)):
            held = self.layer_mask(group, layer)[rows]
            for category in range(len(found)):
                found[category, layer] = np.count_nonzero(held[labels == category], axis=0)
        return found.reshape(len(found), *of.shape)

    def core(self, group: str, rho: float, rows: Int64[np.ndarray, "_"] | None = None) -> Bool[np.ndarray, "C *units"]:
        """Core set of each category: units with m[c, u] >= rho |c|; empty for a category without instructions.

        Args:
          group: name of the group.
          rho: share of the category's instructions that must hold the unit, in (0, 1].
          rows: the instructions that count; all by default.
        """
        membership = self.membership(group, rows)
        required = required_members(self.sizes_of(rows), rho)
        return membership >= required.reshape(-1, *[1] * (membership.ndim - 1))

    def _read(self, group: str, array: str) -> np.ndarray:
        return np.asarray(finished(self._open(group, array).read(), self.run.location))

    def _open(self, group: str, array: str) -> ts.TensorStore:
        if group not in self.groups:
            raise InputError(f"{self.run.location}: set {self.name!r} has no group {group!r}")
        return self.run.store.open_array(f"{sets_path(self.name)}/{group}/{array}")


def open_sets(run: Run | str | Path, name: str = DEFAULT_SET) -> Sets:
    """Opens a set of a run.

    Raises:
      InputError: the run has no such set, it is unfinished, or was written with another schema.
    """
    run = as_run(run)
    attributes = run.store.read_attributes(sets_path(name))
    if attributes is None:
        raise InputError(f"{run.location}: no set {name!r}; the run has {', '.join(set_names(run.store)) or 'none'} "
                         f"(run identify first)")  # fmt: skip
    where = f"{run.location}/{sets_path(name)}/zarr.json"
    if attributes.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}: schema_version is {attributes.get('schema_version')!r}, this version reads "
                         f"{SCHEMA_VERSION}; run identify again")  # fmt: skip
    selection = {field: value for field, value in attributes.items() if field != "schema_version"}
    groups, digest = selection.pop("groups", None), selection.pop("digest", None)
    if digest is None or not isinstance(groups, list) or not {*map(str, groups)} <= run.groups.keys():
        raise InputError(f"{where}: not the attributes of a set of this run; run identify again")
    return Sets(run, name, SetManifest(selection, groups, str(digest)))


def set_names(store: Store) -> list[str]:
    """Names of the finished sets of a run."""
    return store.group_names("sets")
