"""What a run holds: its arrays with their dimensions, and how they are divided into chunks."""

import math
import re
from dataclasses import dataclass

import numpy as np

from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import Group

SCHEMA_VERSION = 2
MAX_COUNT = np.iinfo(np.uint16).max
INNER_CHUNK_BYTES = 1 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class ArraySpec:
    """One array of a store.

    Attributes:
      name: path below the store's root, for example `mlp/positive_count`.
      dtype: NumPy name of the element type.
      shape: full shape.
      dims: names of the axes.
      write_shape: one writer writes whole blocks of this shape; each is one object of the store.
      read_shape: the smallest part that is read and decompressed; divides `write_shape`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    dims: tuple[str, ...]
    write_shape: tuple[int, ...]
    read_shape: tuple[int, ...]


def require_name(name: str) -> None:
    """Refuses what cannot be the name of something stored beside a run.

    Raises:
      InputError: it has other characters than a path and a URL can hold as they are.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"name {name!r} must be letters, digits, '.', '_' and '-'")


def unit_array(name: str, dtype: str, rows: int, rows_per_write: int, unit_shape: tuple[int, ...],
               unit_dims: tuple[str, ...]) -> ArraySpec:  # fmt: skip
    """An array `[I, L, ...]`: written by blocks of instructions, readable by instruction and by layer.

    Args:
      name: path below the store's root.
      dtype: element type.
      rows: number of instructions I.
      rows_per_write: instructions in one written block; a power of two.
      unit_shape: `(L, ...)`.
      unit_dims: names of those axes.
    """
    layer_bytes = math.prod(unit_shape[1:]) * np.dtype(dtype).itemsize
    read_rows = rows_per_write
    while read_rows > 1 and read_rows * layer_bytes > INNER_CHUNK_BYTES:
        read_rows //= 2
    return ArraySpec(name, dtype, (rows, *unit_shape), ("instruction", *unit_dims),
                     (rows_per_write, *unit_shape), (read_rows, 1, *unit_shape[1:]))  # fmt: skip


def mask_array(name: str, group: Group, rows: int, rows_per_write: int) -> ArraySpec:
    """Which units of a group belong to each instruction, packed along the last axis, 8 units a byte, lowest bit first.

    Args:
      name: path below the store's root.
      group: the units.
      rows: number of instructions I.
      rows_per_write: instructions in one written block.
    """
    return unit_array(name, "uint8", rows, rows_per_write, group.packed_shape, group.packed_dimension_names)


def vector(name: str, dtype: str, dim: str, size: int, write_size: int | None = None) -> ArraySpec:
    """A one-dimensional array, written in blocks of `write_size` (all of it by default)."""
    write = (write_size or max(size, 1),)
    return ArraySpec(name, dtype, (size,), (dim,), write, write)
