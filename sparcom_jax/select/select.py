"""The units of every category, by any selector: scored in one pass over a run, chosen, and stored beside it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Num

from sparcom_jax.errors import InputError
from sparcom_jax.progress import say
from sparcom_jax.resampling import benjamini_hochberg
from sparcom_jax.select.flat import by_group, flat
from sparcom_jax.select.halves import in_half
from sparcom_jax.select.sample import Sample
from sparcom_jax.select.settings import SELECTORS, SelectSettings
from sparcom_jax.shares import least_whole
from sparcom_jax.store.attribution import open_attribution
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import DEFAULT_SET, open_sets
from sparcom_jax.store.units import open_units, origin_of, write_units
from sparcom_jax.units.groups import EXPERT_GROUP, NEURON_GROUPS
from sparcom_jax.units.unit_set import UnitSet

if TYPE_CHECKING:
    from sparcom_jax.select.scores import Scored

USUAL_SIZE, USUAL_EXPERTS = 400, 8
"""Neurons and experts of a category, for selectors without a rule of their own."""


def select(
    run: Run | str | Path,
    settings: SelectSettings = SelectSettings(),
    *,
    name: str = "",
    set_name: str = DEFAULT_SET,
) -> list[UnitSet]:
    """Chooses the units of every category by one or several selectors, in one pass over the run, and stores them.

    A unit set of the same name is replaced.

    Args:
      run: a complete run, or its path or URL.
      settings: how to choose.
      name: name of the units, below `units/`; that of the selector by default. Only where there is one selector.
      set_name: the sets whose cores are taken by `core`, `unique` and `general`.

    Returns:
      The units as they are stored, by selector.

    Raises:
      InputError: the run is incomplete or has not what a selector reads, a setting is at fault, or a category has not
        as many units as asked for.
    """
    run = as_run(run)
    if name and len(settings.selectors) > 1:
        raise InputError(f"name {name!r} is for one selector, but {settings.selector} are several")
    stored = [name or selector for selector in settings.selectors]
    for each, units in zip(stored, choose(run, settings, set_name), strict=True):
        write_units(run, each, units)
        _report(each, units)
    return [open_units(run, each) for each in stored]


def choose(run: Run, settings: SelectSettings, set_name: str = DEFAULT_SET) -> list[UnitSet]:
    """The units of every category by each selector, in the order in which these are named; nothing is stored.

    Args:
      run: as for `select`.
      settings: as for `select`.
      set_name: as for `select`.

    Raises:
      InputError: as for `select`.
    """
    from sparcom_jax.select.scores import score_units  # brings jax, which `import sparcom_jax` does not

    settings.check()
    run.require_complete()
    if settings.expert_size and EXPERT_GROUP not in run.groups:
        say(f"{run.location}: expert_size {settings.expert_size} has no effect: the model has no routed experts")
    half = in_half(run, settings.half, settings.seed)
    sample = Sample.of(run, half, control_length=settings.control_length)
    scored = score_units(run, sample, settings, set_name)
    made = []
    for selector, of in scored.items():
        groups = {group: run.groups[group] for group in of.score}
        mask = _chosen(of, settings, f"{run.location}: selector {selector}", run.categories)
        origin = _origin(run, sample, settings, selector, set_name)
        made.append(UnitSet(run.categories, groups, of.score, mask, origin))
    return made


def _chosen(of: "Scored", settings: SelectSettings, what: str, categories: Sequence[str]) -> dict[str, np.ndarray]:
    """The masks of all groups; neurons of all groups compete with each other, experts among themselves."""
    if settings.q:
        assert of.p_value is not None, "SelectSettings.check refuses q for selectors without p-values"
        p_value = flat(of.p_value)
        q_value = benjamini_hochberg(p_value.reshape(-1)).reshape(p_value.shape)
        return by_group((q_value <= settings.q) & flat(of.admitted), of.score)
    mask: dict[str, np.ndarray] = {}
    experts_alone = EXPERT_GROUP in of.score and len(of.score) == 1
    for field, target, usual in (("size", NEURON_GROUPS, USUAL_SIZE), ("expert_size", (EXPERT_GROUP,), USUAL_EXPERTS)):
        score = {group: of.score[group] for group in target if group in of.score}
        if not score:
            continue
        field = "size" if experts_alone and not settings.expert_size else field
        total = flat(score).shape[1]
        size = least_whole(settings.share, total) if settings.share else getattr(settings, field)
        if of.own is not None and not size:
            mask |= {group: of.own[group] for group in score}
            continue
        admitted = flat({group: of.admitted[group] for group in score})
        for category, left in zip(categories, admitted.sum(axis=1), strict=True):
            if left < (size or usual):
                raise InputError(f"{what} admits {left} of {total} {', '.join(score)} units for {category}, but "
                                 f"{size or usual} are asked for; give a smaller {field}")  # fmt: skip
        found = np.stack([_highest(*one, size or usual) for one in zip(flat(score), admitted, strict=True)])
        mask |= by_group(found, score)
    return mask


def _highest(score: Num[np.ndarray, "U"], admitted: Bool[np.ndarray, "U"], size: int) -> Bool[np.ndarray, "U"]:
    """The admitted units of the highest score; units that tie come by index."""
    mask = np.zeros(len(score), bool)
    units = np.flatnonzero(admitted)
    mask[units[np.argsort(-score[units], kind="stable")[:size]]] = True
    return mask


def _origin(run: Run, sample: Sample, settings: SelectSettings, selector: str, set_name: str) -> dict[str, Any]:
    halved = settings.half != "all"
    half = [run.instructions[row]["id"] for row in sample.rows] if halved else None
    more: Mapping[str, Any] = settings.read_by(selector)
    if "rho" in SELECTORS[selector]:
        more = {**more, "set": open_sets(run, set_name).record()}
    if selector == "attribution":
        more = {**more, "attribution": open_attribution(run, settings.method).record()}
    return origin_of(
        run,
        selector,
        size=settings.size or None,
        half=half,
        seed=settings.seed if halved else None,
        chosen_on=settings.half,
        **more,
    )


def _report(name: str, units: UnitSet) -> None:
    for target, of_target in (("neurons", NEURON_GROUPS), ("experts", (EXPERT_GROUP,))):
        if groups := [group for group in of_target if group in units.groups]:
            counts = units.counts(groups)
            listed = ", ".join(f"{category} {n}" for category, n in zip(units.categories, counts, strict=True))
            say(f"units/{name}: {target}: {listed}")
