"""The statistics of a capture: what each is called, its dtype, its axes, and whether a mesh shards it.

Device code, arrays and the size of a block follow from this table.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sparcom_jax.store.schema import ArraySpec, mask_array, unit_array, vector
from sparcom_jax.units.groups import Group, expert_group


@dataclass(frozen=True)
class Statistic:
    """One statistic of the instructions, for a group of units.

    Attributes:
      name: of its array, below the group.
      dtype: NumPy name of the element type, on the device and in the store.
      of: what has a value of its own for each instruction: every neuron, a bit of every neuron (`units/bits.py`),
        every expert, or the instruction alone.
      sharded: whether a mesh shards it, on the first axis after the layers.
    """

    name: str
    dtype: str
    of: Literal["neurons", "bits", "experts", "instruction"]
    sharded: bool

    def array(self, group: Group, rows: int, rows_per_write: int) -> ArraySpec:
        """Its array.

        Args:
          group: the units.
          rows: number of instructions I.
          rows_per_write: instructions in one written block.
        """
        name = f"{group.name}/{self.name}"
        if self.of == "instruction":
            return vector(name, self.dtype, "instruction", rows, rows_per_write)
        if self.of == "bits":
            return mask_array(name, group, rows, rows_per_write)
        units = expert_group(group) if self.of == "experts" else group
        return unit_array(name, self.dtype, rows, rows_per_write, units.shape, units.dimension_names)

    def row_bytes(self, group: Group) -> int:
        """Bytes of one instruction."""
        return math.prod(self.array(group, 1, 1).shape) * np.dtype(self.dtype).itemsize


POSITIVE_COUNT = Statistic("positive_count", "uint16", "neurons", True)
VALUE_SUM = Statistic("value_sum", "float32", "neurons", True)
VALUE_MAX = Statistic("value_max", "float32", "neurons", True)
MASK = Statistic("mask", "uint8", "bits", True)
CUT_COUNT = Statistic("cut_count", "uint16", "instruction", False)
SELECTED_COUNT = Statistic("selected_count", "uint16", "experts", False)
GATE_SUM = Statistic("gate_sum", "float32", "experts", False)
NORM_SUM = Statistic("norm_sum", "float32", "experts", False)


def kept_statistics(group: Group, *, sets: bool, values: bool) -> tuple[Statistic, ...]:
    """What a capture keeps of a group of neurons.

    Args:
      group: the neurons.
      sets: whether sets are kept instead of counts.
      values: whether sums and maxima of the activations, and sums of what experts add, are kept beside the counts.
    """
    of_neurons = (MASK, CUT_COUNT) if sets else (POSITIVE_COUNT, *((VALUE_SUM, VALUE_MAX) if values else ()))
    of_experts = (SELECTED_COUNT, GATE_SUM, *((NORM_SUM,) if values else ()))
    return of_neurons + (of_experts if group.name == "routed" else ())
