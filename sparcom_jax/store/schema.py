"""What a run holds: its arrays with their dimensions, and how they are divided into chunks."""

import math
from dataclasses import dataclass

import numpy as np

from sparcom_jax.units.groups import Group, expert_group

SCHEMA_VERSION = 2
MAX_COUNT = np.iinfo(np.uint16).max
INNER_CHUNK_BYTES = 1 << 20


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
    dims = (*group.dimension_names[:-1], f"{group.dims[-1]}_byte")
    return unit_array(name, "uint8", rows, rows_per_write, group.packed_shape, dims)


def capture_arrays(
    groups: list[Group], rows: int, rows_per_write: int, values: bool, sets: bool = False
) -> list[ArraySpec]:
    """All per-instruction statistics of a run.

    Args:
      groups: the model's neuron groups.
      rows: number of instructions I.
      rows_per_write: instructions in one written block.
      values: whether sums and maxima of the activations are stored too.
      sets: whether masks and cuts of the neurons are stored instead of their counts.
    """
    specs = []
    for group in groups:
        statistics = {} if sets else {"positive_count": "uint16"}
        if values:
            statistics |= {"value_sum": "float32", "value_max": "float32"}
        for statistic, dtype in statistics.items():
            specs.append(unit_array(f"{group.name}/{statistic}", dtype, rows, rows_per_write, group.shape,
                                    group.dimension_names))  # fmt: skip
        if sets:
            specs.append(mask_array(f"{group.name}/mask", group, rows, rows_per_write))
            specs.append(vector(f"{group.name}/cut_count", "uint16", "instruction", rows, rows_per_write))
        if group.name == "routed":
            experts = expert_group(group)
            for statistic, dtype in (("selected_count", "uint16"), ("gate_sum", "float32")):
                specs.append(unit_array(f"routed/{statistic}", dtype, rows, rows_per_write, experts.shape,
                                        experts.dimension_names))  # fmt: skip
    return specs


def vector(name: str, dtype: str, dim: str, size: int, write_size: int | None = None) -> ArraySpec:
    """A one-dimensional array, written in blocks of `write_size` (all of it by default)."""
    write = (write_size or max(size, 1),)
    return ArraySpec(name, dtype, (size,), (dim,), write, write)
