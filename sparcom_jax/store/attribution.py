"""The attributions that are stored beside a run, below `RUN/attribution`.

Axis legend: as in `Run`; A instructions that are attributed, all I or the first of each category; C categories.
"""

import hashlib
import json
from functools import cached_property
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Float32, Float64, Int64, UInt8

from sparcom_jax.errors import InputError
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import SCHEMA_VERSION, ArraySpec, unit_array, vector
from sparcom_jax.store.shown import show_attribution
from sparcom_jax.units.groups import Group

BLOCK_BYTES = 256 << 20
MAX_ROWS_PER_BLOCK = 512


def attribution_path(method: str) -> str:
    """Path of an attribution below its run."""
    return f"attribution/{method}"


def rows_of_a_block(groups: dict[str, Group]) -> int:
    """Instructions that are written together, a power of two: at most so many bytes."""
    row_bytes = sum(4 * group.unit_count for group in groups.values())
    rows = MAX_ROWS_PER_BLOCK
    while rows > 1 and rows * row_bytes > BLOCK_BYTES:
        rows //= 2
    return rows


def value_array(method: str, group: Group, rows: int, rows_per_write: int) -> ArraySpec:
    """The values of one group, `[A, *units]`.

    Args:
      method: of the attribution.
      group: the units.
      rows: number of instructions A.
      rows_per_write: instructions in one written block.
    """
    name = f"{attribution_path(method)}/{group.name}/value"
    return unit_array(name, "float32", rows, rows_per_write, group.shape, group.dimension_names)


def done_array(method: str, rows: int, rows_per_write: int) -> ArraySpec:
    """1 once the values of all groups of an instruction are durable, `[A]`."""
    return vector(f"{attribution_path(method)}/done", "uint8", "instruction", rows, rows_per_write)


class Attribution:
    """What every unit of a run contributes to the log likelihood of instructions' responses.

    Attributes:
      run: the run that it belongs to.
      method: `gradient` or `integrated`.
      attributes: all that the values depend on.
      groups: the groups that have values, by name.
    """

    def __init__(self, run: Run, method: str, attributes: dict[str, Any]) -> None:
        self.run = run
        self.method = method
        self.attributes = attributes
        self.groups = {name: run.groups[name] for name in attributes["groups"]}

    def __repr__(self) -> str:
        return show_attribution(self).text()

    def _repr_html_(self) -> str:
        return show_attribution(self).html()

    @cached_property
    def rows(self) -> Int64[np.ndarray, "A"]:
        """Which instructions of the run are attributed."""
        return self.run.first_rows(self.attributes["per_category"])

    @property
    def category(self) -> UInt8[np.ndarray, "A"]:
        """Category index of each of them."""
        return self.run.category[self.rows]

    @property
    def digest(self) -> str:
        """Digest of all that the values depend on."""
        return hashlib.sha256(json.dumps(self.attributes, sort_keys=True).encode()).hexdigest()

    def record(self) -> dict[str, Any]:
        """What results say of the attribution that they were made from."""
        return {"name": self.method, "run": self.run.address, "digest": self.digest, "method": self.method,
                "steps": self.attributes["steps"], "per_category": self.attributes["per_category"]}  # fmt: skip

    def value(self, group: str) -> ts.TensorStore:
        """The values of a group, `[A, *units]` float32 in nats per token; above 0 the unit helps.

        Raises:
          InputError: it has no values of the group.
        """
        if group not in self.groups:
            raise InputError(f"{self.run.location}: attribution {self.method!r} has no group {group!r}")
        return self.run.store.open_array(f"{attribution_path(self.method)}/{group}/value")

    def layer(self, group: str, layer: int) -> Float32[np.ndarray, "A U"]:
        """The values of the units of one layer, flattened.

        Args:
          group: name of the group.
          layer: index into the group's layers (not the model's layer number).
        """
        values = np.asarray(finished(self.value(group)[:, layer].read(), self.run.location))
        return values.reshape(len(values), -1)

    def category_means(self, group: str, rows: Bool[np.ndarray, "I"]) -> Float64[np.ndarray, "C *units"]:
        """Mean over the attributed instructions of each category, layer by layer; NaN of a category without any.

        Args:
          group: name of the group.
          rows: which instructions of the run count.
        """
        of = self.groups[group]
        means = np.full((len(self.run.categories), len(of.layers), of.unit_count // len(of.layers)), np.nan)
        for layer in range(len(of.layers)):
            values, counts = self.layer(group, layer), rows[self.rows]
            for category in np.unique(self.category[counts]):
                means[category, layer] = values[counts & (self.category == category)].mean(axis=0, dtype=np.float64)
        return means.reshape(len(means), *of.shape)


def open_attribution(run: Run, method: str) -> Attribution:
    """Opens an attribution of a run.

    Raises:
      InputError: the run has none by this method, it is unfinished, or was written with another schema.
    """
    where = f"{run.location}/{attribution_path(method)}"
    attributes = run.store.read_attributes(attribution_path(method))
    if attributes is None:
        raise InputError(f"{where}: the run has no attribution by method {method} (run attribute first)")
    if attributes.get("schema_version") != SCHEMA_VERSION:
        raise InputError(f"{where}/zarr.json: schema_version is {attributes.get('schema_version')!r}, this version "
                         f"reads {SCHEMA_VERSION}; run attribute again")  # fmt: skip
    complete, names = attributes.pop("complete", None), attributes.get("groups")
    if not complete:
        raise InputError(f"{where}: is incomplete: run the same attribute command again to finish it")
    known = isinstance(names, list) and {*map(str, names)} <= run.groups.keys()
    if not known or not {"steps", "per_category"} <= attributes.keys():
        raise InputError(f"{where}/zarr.json: not the attributes of an attribution of this run; run attribute again")
    if attributes.get("run_digest") != run.digest:
        raise InputError(f"{where}: was made of another run (of another model, or of other instructions or settings)")
    return Attribution(run, method, attributes)
