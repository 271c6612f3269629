"""What is measured at once: all units of a target, and its first ones by score (doses).

Axis legend: C categories, U units of the groups of a target.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.targets import Units, targets_of, units_of
from sparcom_jax.errors import InputError
from sparcom_jax.select.flat import by_group, flat
from sparcom_jax.units.unit_set import UnitSet


@dataclass(frozen=True, eq=False)
class Part:
    """The units of a target that are switched off at once.

    Attributes:
      target: `neurons` or `experts`.
      dose: how many units of each category these are, those of the highest score; None for all that it has.
      units: of each category.
    """

    target: str
    dose: int | None
    units: Sequence[Units]

    @property
    def key(self) -> tuple[str, int | None]:
        """Tells it from the others."""
        return self.target, self.dose

    @property
    def counts(self) -> list[int]:
        """How many units each category has in it."""
        return [sum(int(np.count_nonzero(mask)) for mask in of.values()) for of in self.units]


def parts_of(units: UnitSet, settings: AblationSettings) -> list[Part]:
    """All units of every target, and of each target the doses that all categories have units for, as nested sets.

    Args:
      units: what is switched off.
      settings: `doses`.

    Raises:
      InputError: a dose is larger than the units of some category in every target, or all units of a category have
        the same score, so that none comes first.
    """
    parts, known = [], set()
    for target, groups in targets_of(units).items():
        whole = Part(target, None, [units_of(units, groups, category) for category in range(len(units.categories))])
        parts.append(whole)
        fitting = [dose for dose in settings.dose_sizes if dose <= min(whole.counts)]
        known |= {*fitting}
        if fitting:
            _require_order(units, target, groups)
        score = flat({group: units.score[group] for group in groups})
        mask = {group: units.mask[group] for group in groups}
        for dose in fitting:
            first = by_group(first_units(score, flat(mask), dose), mask)
            of_category = [{group: one[category] for group, one in first.items()} for category in range(len(score))]
            parts.append(Part(target, dose, of_category))
    if unknown := [dose for dose in settings.dose_sizes if dose not in known]:
        most = {part.target: min(part.counts) for part in parts if part.dose is None}
        raise InputError(
            f"doses {settings.doses!r}: {unknown[0]} is more than some category of {units.title} has: all have "
            f"{' and '.join(f'{count} {target}' for target, count in most.items())}"
        )
    return parts


def first_units(score: Float32[np.ndarray, "C U"], mask: Bool[np.ndarray, "C U"], size: int) -> Bool[np.ndarray, "C U"]:
    """Of the units of each category, so many of the highest score; units that tie come by index."""
    order = np.argsort(np.where(mask, -score, np.inf), axis=1, kind="stable")
    first = np.zeros_like(mask)
    np.put_along_axis(first, order[:, :size], True, axis=1)
    return first


def _require_order(units: UnitSet, target: str, groups: list[str]) -> None:
    for category, name in enumerate(units.categories):
        scores = np.concatenate([units.score[group][category][units.mask[group][category]] for group in groups])
        if len(scores) > 1 and np.ptp(scores) == 0:
            raise InputError(f"doses have no effect: all {target} of {name} in {units.title} have the score "
                             f"{scores[0]:g}, so none comes first")  # fmt: skip
