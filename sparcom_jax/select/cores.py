"""Core units of categories, those of one category alone, and those of all: what the paper calls unique and general.

Axis legend: C categories; `*units` is the shape of a group's units. A unit's score is m[c, u] / |c|, the share of the
category's instructions whose S(i) holds it; which share makes it core is the one definition in `Sets.core`.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from jaxtyping import Array, Bool, Int64

from sparcom_jax.errors import InputError
from sparcom_jax.store.sets import Sets
from sparcom_jax.store.units import origin_of
from sparcom_jax.units.unit_set import UnitSet

T = TypeVar("T", np.ndarray, Array)
Masks = Bool[np.ndarray, "C *units"]
Rows = Int64[np.ndarray, "_"]


def in_one_core(core: Bool[T, "C *units"]) -> Bool[T, "C *units"]:
    """The core units of each category that are in no other core; NumPy's or JAX's."""
    return core & (core.sum(axis=0, dtype=np.int32) == 1)


def in_every_core(core: Masks) -> Bool[np.ndarray, "*units"]:
    """The units that are in the cores of all categories."""
    return np.asarray(core.all(axis=0))


def core(sets: Sets, rho: float, rows: Rows | None = None) -> UnitSet:
    """The core units of each category.

    Args:
      sets: the sets of a run.
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      rows: the instructions that choose; all by default.

    Raises:
      InputError: rho is out of range, or some S(i) is empty.
    """
    return _unit_set(sets, rho, rows, "core", lambda core: core)


def unique(sets: Sets, rho: float, rows: Rows | None = None) -> UnitSet:
    """The core units of each category that are in no other category's core.

    Args:
      sets: the sets of a run.
      rho: as for `core`.
      rows: as for `core`.

    Raises:
      InputError: as for `core`.
    """
    return _unit_set(sets, rho, rows, "unique", in_one_core)


def general(sets: Sets, rho: float, rows: Rows | None = None) -> UnitSet:
    """The units in the cores of all categories, the same for each.

    Args:
      sets: the sets of a run.
      rho: as for `core`.
      rows: as for `core`.

    Raises:
      InputError: as for `core`.
    """
    return _unit_set(sets, rho, rows, "general", lambda core: np.broadcast_to(in_every_core(core), core.shape))


def _unit_set(sets: Sets, rho: float, rows: Rows | None, selector: str, choose: Callable[[Masks], Masks]) -> UnitSet:
    if not 0 < rho <= 1:
        raise InputError(f"rho must be within (0, 1], got {rho}")
    sets.require_units()
    sizes = np.maximum(sets.sizes_of(rows), 1)
    score, mask = {}, {}
    for group in sets.groups:
        membership = sets.membership(group, rows)
        score[group] = (membership / sizes.reshape(-1, *[1] * (membership.ndim - 1))).astype(np.float32)
        mask[group] = choose(sets.core(group, rho, rows))
    half = None if rows is None else [sets.run.instructions[row]["id"] for row in rows]
    origin = origin_of(sets.run, selector, half=half, rho=rho, set=sets.record())
    return UnitSet(sets.run.categories, sets.groups, score, mask, origin)
