"""What is switched off together: all neurons of a category, or all its experts; and what cannot be."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool

from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.errors import InputError
from sparcom_jax.progress import say
from sparcom_jax.select.cores import core
from sparcom_jax.select.halves import in_half
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.unit_set import UnitSet

Units = Mapping[str, Bool[np.ndarray, "..."]]
"""Units to switch off: group -> mask over its units."""


def targets_of(units: UnitSet) -> dict[str, list[str]]:
    """The targets that a unit set has, each with the groups that it has of it."""
    found = {target: [name for name in units.groups if name in groups] for target, groups in TARGETS.items()}
    return {target: groups for target, groups in found.items() if groups}


def units_of(units: UnitSet, groups: list[str], category: int) -> Units:
    """The units of a category in the groups of a target."""
    return {group: units.mask[group][category] for group in groups}


def cores(sets: Sets, settings: AblationSettings) -> UnitSet:
    """The cores of a set, as units to switch off: by half of the instructions where others are to be measured.

    Args:
      sets: the set.
      settings: `rho`, and whether instructions are held out.

    Raises:
      InputError: as `select.cores.core`, or a category has too few instructions to be halved.
    """
    if settings.measured == "all":
        return core(sets, settings.rho)
    return core(sets, settings.rho, np.flatnonzero(in_half(sets.run, "first", settings.seed)))


def cores_of_a_set(units: UnitSet) -> bool:
    """Whether the units are the cores of a set, and not kept under a name of their own."""
    return units.selector == "core" and not units.name


def require_units_to_switch_off(run: Run, units: UnitSet, targets: Mapping[str, list[str]]) -> None:
    """Refuses units of which a category has none in a target.

    Args:
      run: the run that they were chosen by.
      units: the units.
      targets: from `targets_of`.

    Raises:
      InputError: it names the categories.
    """
    lacks, advice = f"{units.title} have no", ", so nothing to switch off; choose more"
    if cores_of_a_set(units):
        lacks = f"set {units.origin['set']['name']!r} has no core"
        advice = f" at rho {units.origin['rho']}, so nothing to switch off; take a smaller rho or larger sets"
    for target, groups in targets.items():
        units.require_units(groups, f"{run.location}: {lacks} {target}", advice)


def require_experts_to_act_on(run: Run, units: UnitSet, settings: AblationSettings) -> None:
    """Refuses a way of acting on experts where the units have none; of a model without any, it says so only.

    Args:
      run: the run that they were chosen by.
      units: the units.
      settings: what becomes of them.

    Raises:
      InputError: the model has experts, the units have not.
    """
    if settings.experts == AblationSettings.experts or EXPERT_GROUP in units.groups:
        return
    if EXPERT_GROUP in run.groups:
        raise InputError(f"experts {settings.experts} has no effect: {units.title} have no experts; leave it out")
    say(f"{run.location}: experts {settings.experts} has no effect: the model has no routed experts")


def require_enough_experts(run: Run, units: UnitSet, settings: AblationSettings) -> None:
    """Refuses experts that cannot be masked or forced, because of how many a token is routed to.

    Args:
      run: the run that they were chosen by.
      units: the units.
      settings: what becomes of them.

    Raises:
      InputError: it names the first such category and layer.
    """
    if EXPERT_GROUP not in units.groups:
        return
    if settings.experts == "zero":
        return
    if settings.keep:
        raise InputError("keep compares with a model in which all experts are off, but with experts mask no token can "
                         "be routed then; use experts=zero, or units without experts")  # fmt: skip
    group, needed = run.groups[EXPERT_GROUP], run.manifest.model.num_experts_per_tok
    counts = units.layer_counts(EXPERT_GROUP)
    fewer = f"use {'a set' if cores_of_a_set(units) else 'units'} with fewer"
    if settings.experts == "force":
        for category, layer in np.argwhere(counts > needed):
            raise InputError(
                f"{run.location}: the {units.selector} experts of {run.categories[category]} are "
                f"{counts[category, layer]} in layer {group.layers[layer]}, but a token is routed to {needed}, so that "
                f"not all can be forced; {fewer}"
            )
        return
    left = group.sizes[0] - counts
    for category, layer in np.argwhere(left < needed):
        raise InputError(
            f"{run.location}: the {units.selector} experts of {run.categories[category]} leave "
            f"{left[category, layer]} experts in layer {group.layers[layer]}, but a token needs {needed}; "
            f"{fewer}"
        )
