"""What switching units off did, against chance: effects on every category, selectivity, and what they rest on.

Axis legend: C categories (of two such axes the first is switched off, the second measured), S scored instructions,
R draws, B bootstrap samples.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt16

from sparcom_jax.resampling import benjamini_hochberg, category_means, interval, share, two_sided_p

Matrix = Float64[np.ndarray, "C C"]
Vector = Float64[np.ndarray, "C"]


@dataclass(frozen=True, eq=False)
class Kept:
    """What is measured beside the rest where units are kept, and all others of the target are off.

    Attributes:
      units: how many are kept.
      all_off: negative log likelihood of each instruction with all units of the target off; by category, as `nll`.
    """

    units: Int64[np.ndarray, "C"]
    all_off: Float64[np.ndarray, "C S"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What switching off the units of one target did to the likelihood of every instruction.

    Attributes:
      units_off: how many units were off for each category, and for random ones in the place of its own.
      nll: negative log likelihood of each instruction, with the units of a category off.
      controls: by control, the mean of every category's instructions with random units off.
      kept: where the units of a category are kept, and all others off.
    """

    units_off: Int64[np.ndarray, "C"]
    nll: Float64[np.ndarray, "C S"]
    controls: dict[str, Float64[np.ndarray, "R C C"]]
    kept: Kept | None = None


@dataclass(frozen=True, eq=False)
class Against:
    """Effects against one control.

    Attributes:
      delta: of every draw.
      p_value: of the effects, two-sided, among the draws.
      q_value: of these, over all cells.
      selectivity: of every draw.
      p_selectivity: of the selectivity, two-sided, among the draws.
      q_selectivity: of these, over the categories.
    """

    delta: Float64[np.ndarray, "R C C"]
    p_value: Matrix
    q_value: Matrix
    selectivity: Float64[np.ndarray, "R C"]
    p_selectivity: Vector
    q_selectivity: Vector

    @property
    def smallest_p(self) -> float:
        """The least p-value that so many draws can give."""
        return 2 / (1 + len(self.delta))

    def summary(self) -> dict[str, Any]:
        """As the summary holds it."""
        return {
            "mean": self.delta.mean(axis=0), "low": self.delta.min(axis=0), "high": self.delta.max(axis=0),
            "p_value": self.p_value, "q_value": self.q_value, "smallest_p": self.smallest_p,
            "selectivity_mean": self.selectivity.mean(axis=0),
            "p_selectivity": self.p_selectivity, "q_selectivity": self.q_selectivity,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Effects:
    """Effects of the units of one target.

    Attributes:
      measured: what was measured.
      baseline: negative log likelihood of each instruction with nothing off.
      weights: the instructions of each category as they are, then bootstrap samples of them.
    """

    measured: Measured
    baseline: Float64[np.ndarray, "S"]
    weights: UInt16[np.ndarray, "B S C"]

    @cached_property
    def _means(self) -> Float64[np.ndarray, "B C C"]:
        return self._changes(self.measured.nll)

    def _changes(self, nll: Float64[np.ndarray, "C S"]) -> Float64[np.ndarray, "B C C"]:
        return category_means((nll - self.baseline).T, self.weights).swapaxes(1, 2)

    @cached_property
    def baseline_means(self) -> Vector:
        """Negative log likelihood of each category with nothing off."""
        return category_means(self.baseline[:, None], self.weights[:1])[0, :, 0]

    @property
    def delta(self) -> Matrix:
        """Mean over a category's instructions of the change of negative log likelihood."""
        return self._means[0]

    @property
    def delta_interval(self) -> tuple[Matrix, Matrix]:
        """Bootstrap interval of `delta` over instructions."""
        return interval(self._means[1:])

    @property
    def selectivity(self) -> Vector:
        """Effect on the category itself, less the mean effect on the others."""
        return selectivity(self._means[:1])[0]

    @property
    def selectivity_interval(self) -> tuple[Vector, Vector]:
        """Its bootstrap interval over instructions."""
        return interval(selectivity(self._means[1:]))

    @cached_property
    def against(self) -> dict[str, Against]:
        """The effects against every control."""
        return {name: self._against(nll - self.baseline_means) for name, nll in self.measured.controls.items()}

    @cached_property
    def sufficiency(self) -> "Sufficiency | None":
        """How much the units that are kept recover; None where they are off instead."""
        if self.measured.kept is None:
            return None
        harm = self._changes(self.measured.kept.all_off)
        drawn = {name: share(harm[0] - one.delta, harm[0]).mean(axis=0) for name, one in self.against.items()}
        return Sufficiency(self.measured.kept.units, harm[0], share(harm - self._means, harm), drawn)

    def _against(self, delta: Float64[np.ndarray, "R C C"]) -> Against:
        p_value, chance = two_sided_p(self.delta, delta), selectivity(delta)
        p_selectivity = two_sided_p(self.selectivity, chance)
        q_value = benjamini_hochberg(p_value.reshape(-1)).reshape(p_value.shape)
        return Against(delta, p_value, q_value, chance, p_selectivity, benjamini_hochberg(p_selectivity))

    def summary(self) -> dict[str, Any]:
        """As the summary holds it."""
        low, high = self.delta_interval
        selectivity_low, selectivity_high = self.selectivity_interval
        return {
            "units_off": self.measured.units_off,
            "delta": self.delta, "ci_low": low, "ci_high": high,
            "selectivity": self.selectivity, "selectivity_low": selectivity_low, "selectivity_high": selectivity_high,
            "controls": {name: against.summary() for name, against in self.against.items()},
            **({"recovered": self.sufficiency.recovered} if self.sufficiency else {}),
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Sufficiency:
    """How much of what is lost with all units of a target off is not lost where a category's are kept.

    Attributes:
      units_kept: how many.
      harm: change of negative log likelihood with all units off.
      samples: (harm - change with the units kept) / harm, of the instructions and then of bootstrap samples; NaN where
        there is no harm.
      by_chance: the mean of the same over the draws of every control.
    """

    units_kept: Int64[np.ndarray, "C"]
    harm: Matrix
    samples: Float64[np.ndarray, "B C C"]
    by_chance: dict[str, Matrix]

    @property
    def recovered(self) -> Matrix:
        """The share that is recovered: 1 where nothing is lost, 0 where as much as with all units off."""
        return self.samples[0]

    @property
    def interval(self) -> tuple[Matrix, Matrix]:
        """Its bootstrap interval over instructions."""
        return interval(self.samples[1:])


def selectivity(delta: Float64[np.ndarray, "R C C"]) -> Float64[np.ndarray, "R C"]:
    """Of every draw and category, the effect on itself less the mean effect on the others; NaN for a lone category."""
    own = np.diagonal(delta, axis1=1, axis2=2)
    return own - others(delta)


def others(delta: Float64[np.ndarray, "R C C"]) -> Float64[np.ndarray, "R C"]:
    """Of every draw and category, the mean effect on the others; NaN for a lone category."""
    own = np.diagonal(delta, axis1=1, axis2=2)
    count = np.asarray(delta.shape[2] - 1)
    return share(delta.sum(axis=2) - own, count)
