"""The units of a unit set as rows: by category, the highest score first."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from sparcom_jax.display import Display
from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import TARGETS, shapes
from sparcom_jax.units.names import unit_name

if TYPE_CHECKING:
    import pandas

    from sparcom_jax.units.unit_set import UnitSet

COLUMNS = ("unit", "category", "group", "layer", "expert", "neuron", "rank", "score")
DTYPES = {"layer": "int64", "expert": "Int64", "neuron": "Int64", "rank": "int64", "score": "float32"}
"""Of columns of numbers; those of `Int64` may be missing."""
FIRST = 4
"""Units of each category that are shown of neurons, and of experts."""
SIZES = ("size", "expert_size", "share", "q", "rho")
"""Fields of the origin that say how many units were asked for."""
MOST_ROWS = 24
"""Categories that are shown."""


class Ranked(NamedTuple):
    """A unit of a category.

    Attributes:
      group: name of its group.
      place: in the group's arrays.
      score: how much of the category it is.
    """

    group: str
    place: tuple[int, ...]
    score: float


def ranked(units: "UnitSet", category: int, groups: Iterable[str], top: int = 0) -> list[Ranked]:
    """The units of a category in some groups together, the highest score first.

    Args:
      units: the unit set.
      category: index of the category.
      groups: names of groups; those that the set does not have are left out.
      top: how many, at most; 0 for all.

    Returns:
      The units; those that tie come by group and place.
    """
    own = [name for name in groups if name in units.groups]
    places = [(name, at) for name in own for at in np.argwhere(units.mask[name][category])]
    score = np.concatenate([units.score[name][category][units.mask[name][category]] for name in own] or [np.zeros(0)])
    order = np.argsort(-score, kind="stable")[: top or len(score)]
    return [Ranked(places[at][0], tuple(places[at][1].tolist()), float(score[at])) for at in order]


def units_table(units: "UnitSet", category: str | None, top: int) -> "pandas.DataFrame":
    """As `UnitSet.table`."""
    import pandas

    if category is not None and category not in units.categories:
        raise InputError(f"{units.title}: no category {category!r}; there are {', '.join(units.categories)}")
    if top < 0:
        raise InputError(f"top must not be negative, got {top}")
    wanted = units.categories if category is None else [category]
    frame = pandas.DataFrame([row for name in wanted for row in _rows(units, name, top)], columns=list(COLUMNS))
    return frame.astype(DTYPES)


def _rows(units: "UnitSet", category: str, top: int) -> Iterator[tuple[Any, ...]]:
    at = list(units.categories).index(category)
    for groups in TARGETS.values():
        for rank, (name, index, score) in enumerate(ranked(units, at, groups, top), 1):
            group = units.groups[name]
            of = dict(zip(group.dims, index[1:], strict=True))
            layer = group.layers[index[0]]
            yield unit_name(group, index), category, name, layer, of.get("expert"), of.get("neuron"), rank, score


def show_units(units: "UnitSet") -> Display:
    """Who chose the units, of how many instructions, how many they are, and the first of each category."""
    half = units.origin["half"]
    asked = [f"{field}={value}" for field in SIZES if (value := units.origin.get(field))]
    fields = [
        ("selector", units.selector),
        ("asked for", ", ".join(asked) or "the selector's own size"),
        ("chosen by", "all instructions" if half is None else f"{len(half):,} instructions"),
        ("groups", shapes(units.groups.values())),
    ]
    named = {name: units.layer_counts(name).sum(axis=1) for name in units.groups}
    rows = []
    for at, category in enumerate(units.categories):
        first = [_first(units, at, groups) for groups in TARGETS.values()]
        rows.append([category, *(f"{of[at]:,}" for of in named.values()), "; ".join(filter(None, first))])
    return Display(f"UnitSet {units.name!r}" if units.name else "UnitSet", fields,
                   ["category", *named, "first units"], rows[:MOST_ROWS])  # fmt: skip


def _first(units: "UnitSet", category: int, groups: Iterable[str]) -> str:
    return ", ".join(unit_name(units.groups[name], at) for name, at, _ in ranked(units, category, groups, FIRST))
