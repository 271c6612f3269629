"""The two sides of a comparison: what is measured of each, and whether they may be compared at all."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from sparcom_jax.analysis.cores import core_sets
from sparcom_jax.analysis.overlap import Intersections, all_intersections
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.progress import progress
from sparcom_jax.resampling import category_means, one_hot
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets


@dataclass(frozen=True)
class Side:
    """One model of a comparison. Every dict is by group.

    Attributes:
      role: `base` or `tuned`.
      sets: its sets.
      core: core sets `[C, L, U]`.
      intersections: of all pairs of instructions, `[I, I]`.
      set_size: mean |S(i)| by category and layer.
    """

    role: str
    sets: Sets
    core: dict[str, Bool[np.ndarray, "C _ _"]]
    intersections: dict[str, Intersections]
    set_size: dict[str, Float64[np.ndarray, "C _"]]

    @property
    def run(self) -> Run:
        """The run that the sets belong to."""
        return self.sets.run


def measure_side(role: str, sets: Sets, rho: float) -> Side:
    """Measures what the comparison needs of one model.

    Args:
      role: `base` or `tuned`.
      sets: its sets.
      rho: share of a category's instructions that must hold a unit for it to be core.
    """
    core = {name: core_sets(sets, name, rho) for name in sets.groups}
    intersections, set_size = {}, {}
    observed = one_hot(sets.run.category[None], len(sets.run.categories))
    for name, group in sets.groups.items():
        with progress(f"{role} {name}", len(group.layers), "layers") as bar:
            intersections[name] = all_intersections(sets, name, bar.advance)
        set_size[name] = category_means(intersections[name].first.astype(np.float64), observed)[0]
    return Side(role, sets, core, intersections, set_size)


def require_comparable(base: Sets, tuned: Sets) -> None:
    """Refuses two runs whose sets say nothing about each other.

    Raises:
      InputError: instructions, categories or the way in which the sets were made differ.
    """
    where = f"{base.run.location} and {tuned.run.location}"
    digests = [sets.run.manifest.instructions.digest for sets in (base, tuned)]
    if digests[0] != digests[1]:
        raise InputError(f"{where}: captured from different instructions (digests {digests[0]} and {digests[1]})")
    if base.run.categories != tuned.run.categories:
        raise InputError(f"{where}: categories differ ({base.run.categories} and {tuned.run.categories})")
    if unlike := differences(base.manifest.selection, tuned.manifest.selection):
        named = first_of(f"{name} {one!r} and {other!r}" for name, (one, other) in unlike.items())
        raise InputError(f"{where}: set {base.name!r} was made in different ways ({named}); identify both alike")


def differences(base: dict[str, Any], tuned: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, with both values; one that is absent counts as None."""
    pairs = {name: (base.get(name), tuned.get(name)) for name in sorted({*base, *tuned})}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def difference_of_architecture(base: Sets, tuned: Sets) -> str | None:
    """Why two models cannot be compared unit by unit; None where they can."""
    families = [sets.run.manifest.model.family for sets in (base, tuned)]
    if families[0] != families[1]:
        return f"the models are of different families ({families[0]} and {families[1]})"
    depths = [sets.run.manifest.model.num_layers for sets in (base, tuned)]
    if depths[0] != depths[1]:
        return f"the models have {depths[0]} and {depths[1]} layers"
    unlike = [name for name in {**base.groups, **tuned.groups} if base.groups.get(name) != tuned.groups.get(name)]
    return f"the models differ in their units ({first_of(unlike)})" if unlike else None
