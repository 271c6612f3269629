"""The passes of an ablation: the units of every category off, and random ones in their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from sparcom_jax.causal.controls import Bins, random_units
from sparcom_jax.causal.effects import Kept, Measured
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.parts import Part
from sparcom_jax.causal.texts import Scored
from sparcom_jax.models.edits import Edits
from sparcom_jax.progress import progress
from sparcom_jax.resampling import category_means, one_hot
from sparcom_jax.units.groups import TARGETS
from sparcom_jax.units.unit_set import UnitSet

Advance = Callable[[int], object]
"""Is told of every batch, how many instructions it has."""

Score = Callable[[Edits, str, Advance], Float64[np.ndarray, "S"]]
"""Negative log likelihood of each instruction under edits; the text says what they do, for an error."""

Key = tuple[str, int | None]
"""A target, and a dose or None (`Part.key`)."""


@dataclass(frozen=True, eq=False)
class Passes:
    """What all passes have in common.

    Attributes:
      score: makes one.
      units: whose selector and categories messages name.
      scored: what is scored.
      intervention: what becomes of units.
      bins: by control, the bins that random units are drawn from.
    """

    score: Score
    units: UnitSet
    scored: Scored
    intervention: Intervention
    bins: Mapping[str, Bins]

    def run(self, parts: Sequence[Part]) -> dict[Key, Measured]:
        """Switches off the units of every part and category, and random ones in their place.

        A dose that is all of its target is not measured again.
        """
        whole = {part.target: part.counts for part in parts if part.dose is None}
        own = [part for part in parts if part.dose is None or part.counts != whole[part.target]]
        made: dict[Key, Measured] = {}
        size, settings = len(self.units.categories), self.intervention.settings
        each = size * (1 + settings.draws * len(self.bins))
        each += (size if self.intervention.by_category else 1) if settings.keep else 0
        with progress("ablate", len(own) * each * len(self.scored.names), "responses") as bar:
            for part in own:
                made[part.key] = self._measure(part, bar.advance)
        return {part.key: made.get(part.key, made[part.target, None]) for part in parts}

    def _measure(self, part: Part, advance: Advance) -> Measured:
        settings, categories = self.intervention.settings, self.units.categories
        size, observed = len(categories), one_hot(self.scored.category[None], len(categories))
        nll = np.zeros((size, len(self.scored.names)))
        forced = part.target == "experts" and settings.experts == "force"
        done = "kept alone" if settings.keep else "forced" if forced else "switched off"
        controls = {control: np.zeros((settings.draws, size, size)) for control in self.bins}
        for off, (name, units) in enumerate(zip(categories, part.units, strict=True)):
            when = f" with the {self.units.selector} {part.target} of {name} {done}"
            nll[off] = self.score(self.intervention.edits(units, off), when, advance)
            for number, (control, bins) in enumerate(self.bins.items()):
                dose = [] if part.dose is None else [part.dose]
                random = np.random.default_rng([settings.seed, off, list(TARGETS).index(part.target), number, *dose])
                for draw, drawn in enumerate(random_units(units, bins, settings.draws, random)):
                    when = f" with {control} {part.target} (draw {draw + 1}) in the place of {name} {done}"
                    found = self.score(self.intervention.edits(drawn, off), when, advance)
                    controls[control][draw, off] = category_means(found[:, None], observed)[0, :, 0]
        counts = np.asarray(part.counts, np.int64)
        if not settings.keep:
            return Measured(counts, nll, controls)
        kept = Kept(counts, self._all_off(part, advance))
        return Measured(sum(mask.size for mask in part.units[0].values()) - counts, nll, controls, kept)

    def _all_off(self, part: Part, advance: Advance) -> Float64[np.ndarray, "C S"]:
        """Of each category, with all units of the target off; made once where it is the same for all categories."""
        when, found = f" with all {part.target} switched off", []
        for off in range(len(self.units.categories) if self.intervention.by_category else 1):
            found.append(self.score(self.intervention.all_off(part.units[0], off), when, advance))
        return np.broadcast_to(found, (len(self.units.categories), len(self.scored.names)))
