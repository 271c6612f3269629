"""How units are switched off: the settings of an ablation, and their rules."""

import math
import re
from dataclasses import dataclass

from sparcom_jax.errors import InputError

HOW = ("zero", "scale", "mean", "mean_others", "resample")
EXPERTS = ("mask", "zero", "force")
MEASURED = ("held_out", "chosen", "all")


@dataclass(frozen=True)
class AnswerSettings:
    """How a model answers with units switched off.

    Attributes:
      new_tokens: the most tokens of an answer.
      draws: random sets of the same size and frequency, for each category.
      execute: whether answers to CODE are run; they are what a model wrote, and a subprocess is no sandbox.
    """

    new_tokens: int = 128
    draws: int = 2
    execute: bool = False

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is out of range.
        """
        if self.new_tokens < 1 or self.draws < 0:
            raise InputError(f"new_tokens {self.new_tokens} must be positive and draws {self.draws} not negative")


@dataclass(frozen=True)
class SteerSettings:
    """How units are turned up and down while a model answers.

    Attributes:
      alphas: factors of what neurons write, from small to large, with commas between; 1 is measured anyway.
      category: whose units are scaled; empty for those of each in turn.
      new_tokens: the most tokens of an answer.
      draws: random sets of the same size and frequency, for each category.
      measured: what is asked: `held_out` instructions, which did not choose the units, the `chosen`, or `all`.
      per_category: instructions of each category that are asked, the first in the run's order; 0 takes all.
      seed: of the random sets and the bootstrap.
    """

    alphas: str = "0,0.5,1.5,2,3"
    category: str = ""
    new_tokens: int = 128
    draws: int = 1
    measured: str = "held_out"
    per_category: int = 4
    seed: int = 0

    @property
    def factors(self) -> list[float]:
        """The factors but 1."""
        return [factor for factor in map(float, self.alphas.split(",")) if factor != 1]

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is unknown or out of range.
        """
        try:
            factors = [float(one) for one in self.alphas.split(",")]
        except ValueError:
            factors = []
        if not factors or factors != sorted({*factors}) or not all(map(math.isfinite, factors)):
            raise InputError(f"alphas {self.alphas!r} must be numbers, from small to large, with commas between")
        if self.new_tokens < 1 or self.draws < 0 or self.per_category < 0 or self.seed < 0:
            raise InputError(f"new_tokens {self.new_tokens} must be positive, and draws {self.draws}, per_category "
                             f"{self.per_category} and seed {self.seed} not negative")  # fmt: skip
        if self.measured not in MEASURED:
            raise InputError(f"measured {self.measured!r} is not known; known: {', '.join(MEASURED)}")


@dataclass(frozen=True)
class AblationSettings:
    """How units are switched off and what is measured.

    Units flatter themselves where they were chosen: results of others than `held_out` instructions say so. Means are
    over all tokens of instructions that are not measured; of all but the category's own for `mean_others`. `resample`:
    values at tokens, drawn with the seed, of instructions that are neither measured nor of the category. Of
    experts `experts` says what becomes, whatever `how` says of neurons.

    Attributes:
      how: neurons become `zero`, `alpha` times their value (`scale`), their `mean`, `mean_others`, or `resample`.
      alpha: factor of neurons with `scale`.
      experts: experts cannot be chosen (`mask`), weigh nothing once chosen (`zero`), or are always chosen (`force`).
      keep: instead of a category's units, all others of the same groups are switched off: are the units enough?
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      doses: numbers of units, `25,100`: the first ones of each category by score are also measured by themselves.
      measured: what is scored: `held_out` instructions, which did not choose the units, the `chosen`, or `all`.
      draws: random sets of the same size, for each category and control.
      per_category: instructions of each category that are scored, the first in the run's order; 0 takes all.
      bootstraps: bootstrap samples of the instructions.
      seed: seed of the random sets, the bootstrap, and the halves of the cores of a set.
    """

    how: str = "zero"
    alpha: float = 0.0
    experts: str = "mask"
    keep: bool = False
    rho: float = 0.5
    doses: str = ""
    measured: str = "held_out"
    draws: int = 40
    per_category: int = 0
    bootstraps: int = 1000
    seed: int = 0

    @property
    def dose_sizes(self) -> list[int]:
        """The numbers of units that `doses` names."""
        return [int(size) for size in self.doses.split(",") if size]

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is unknown or out of range.
        """
        if self.how not in HOW:
            raise InputError(f"how {self.how!r} is not known; known: {', '.join(HOW)}")
        if self.alpha and self.how != "scale":
            raise InputError(f"alpha {self.alpha} has no effect with how {self.how}; leave it out")
        if not math.isfinite(self.alpha):
            raise InputError(f"alpha must be finite, got {self.alpha}")
        if self.experts not in EXPERTS:
            raise InputError(f"experts {self.experts!r} is not known; known: {', '.join(EXPERTS)}")
        if self.keep and self.experts == "force":
            raise InputError("keep switches off all but the units, but experts force switches nothing off; give one")
        if not 0 < self.rho <= 1:
            raise InputError(f"rho must be within (0, 1], got {self.rho}")
        if self.doses and not _ascending(self.doses):
            raise InputError(f"doses {self.doses!r} must be numbers of units, from small to large, with commas between")
        if self.measured not in MEASURED:
            raise InputError(f"measured {self.measured!r} is not known; known: {', '.join(MEASURED)}")
        if self.draws < 1 or self.per_category < 0:
            raise InputError(f"draws {self.draws} must be positive and per_category {self.per_category} not negative")
        if self.bootstraps < 1:
            raise InputError(f"bootstraps must be positive, got {self.bootstraps}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")


def _ascending(doses: str) -> bool:
    sizes = [int(size) if re.fullmatch("[1-9][0-9]*", size) else 0 for size in doses.split(",")]
    return all(before < size for before, size in zip([0, *sizes], sizes, strict=False))
