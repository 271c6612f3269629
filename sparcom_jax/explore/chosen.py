"""Which units get a card, and what the run says of them.

Axis legend: I instructions, n chosen units.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorstore as ts
from jaxtyping import Float32, Int64

from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import TARGETS, Group
from sparcom_jax.units.names import unit_name
from sparcom_jax.units.table import ranked
from sparcom_jax.units.unit_set import UnitSet


@dataclass(frozen=True)
class Chosen:
    """A unit that gets a card.

    Attributes:
      group: its group.
      index: its place in the group's arrays.
      of: by category whose unit it is among the first, its rank, from 1, and its score.
    """

    group: Group
    index: tuple[int, ...]
    of: Mapping[str, tuple[int, float]]

    @property
    def name(self) -> str:
        """What it is called."""
        return unit_name(self.group, self.index)


def first_units(units: UnitSet, top: int) -> list[Chosen]:
    """The units of each category with the highest scores, of neurons and of experts each.

    Args:
      units: the unit set.
      top: how many of each category, at most.

    Returns:
      Every unit once, by group and place; units that tie come in that order.
    """
    found: dict[tuple[str, tuple[int, ...]], dict[str, tuple[int, float]]] = {}
    for groups in TARGETS.values():
        for category, title in enumerate(units.categories):
            for rank, (name, at, score) in enumerate(ranked(units, category, groups, top), 1):
                found.setdefault((name, at), {})[title] = rank, score
    order = {name: at for at, name in enumerate(units.groups)}
    places = sorted(found, key=lambda place: (order[place[0]], place[1]))
    return [Chosen(units.groups[name], at, found[name, at]) for name, at in places]


def columns(arrays: Mapping[str, ts.TensorStore], chosen: Sequence[Chosen], run: Run) -> Float32[np.ndarray, "I n"]:
    """What arrays `[I, *units]` hold of the chosen units; a layer is read at a time.

    Args:
      arrays: by group.
      chosen: the units.
      run: whose arrays these are.
    """
    parts: dict[int, np.ndarray] = {}
    for name, layer in dict.fromkeys((one.group.name, one.index[0]) for one in chosen):
        values = np.asarray(finished(arrays[name][:, layer].read(), run.location))
        for number, one in enumerate(chosen):
            if (one.group.name, one.index[0]) == (name, layer):
                flat = values.reshape(len(values), -1)
                parts[number] = flat[:, np.ravel_multi_index(one.index[1:], one.group.sizes)].astype(np.float32)
    return np.stack([parts[number] for number in range(len(chosen))], axis=1)


def rows_to_read(
    run: Run, frequency: Float32[np.ndarray, "I n"], examples: int, sample: Int64[np.ndarray, "_"]
) -> Int64[np.ndarray, "R"]:
    """The instructions that are read once more: of each unit those where it is active most, and a sample.

    Args:
      run: the run.
      frequency: p of each unit.
      examples: of each unit so many; instructions that tie come in the order of the run.
      sample: the sample.
    """
    most = np.argsort(-frequency, axis=0, kind="stable")[:examples]
    active = np.take_along_axis(frequency, most, axis=0) > 0
    return np.union1d(most[active], sample).astype(np.int64)
