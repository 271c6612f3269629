"""How sets are evaluated and compared: the settings of both analyses, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError
from sparcom_jax.resampling import STRATUM_ROWS

OF_SELECT = ("size", "expert_size", "share", "half", "seed")
"""Of the settings of `select`, those that an agreement of selectors reads."""
EPSILONS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
THRESHOLDS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)


@dataclass(frozen=True)
class EvaluateSettings:
    """How generality and uniqueness are measured.

    Attributes:
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      permutations: shuffles of the labels among instructions of similar length.
      bootstraps: bootstrap samples of the instructions, and halves of them.
      stratum_rows: about how many instructions are of similar length, in a shuffle.
      seed: seed of all draws; the same seed gives the same files.
    """

    rho: float = 0.5
    permutations: int = 1000
    bootstraps: int = 1000
    stratum_rows: int = STRATUM_ROWS
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: rho is not in (0, 1], or a number is too small.
        """
        _check(self.rho, self.seed, permutations=self.permutations, bootstraps=self.bootstraps,
               stratum_rows=self.stratum_rows)  # fmt: skip


@dataclass(frozen=True)
class CompareSettings:
    """How two models are compared.

    Attributes:
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      permutations: shuffles of the labels among instructions of similar length, for the correlation of the tables.
      bootstraps: bootstrap samples of the instructions.
      stratum_rows: about how many instructions are of similar length, in a shuffle.
      seed: seed of all draws; the same seed gives the same files.
    """

    rho: float = 0.5
    permutations: int = 1000
    bootstraps: int = 1000
    stratum_rows: int = STRATUM_ROWS
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: rho is not in (0, 1], or a number is too small.
        """
        _check(self.rho, self.seed, permutations=self.permutations, bootstraps=self.bootstraps,
               stratum_rows=self.stratum_rows)  # fmt: skip


@dataclass(frozen=True)
class SweepSettings:
    """Where S(i) is cut, in a sweep.

    Attributes:
      cuts: values of epsilon, or thresholds, with commas between; by default some small and some large.
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
    """

    cuts: str = ""
    rho: float = 0.5

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: rho is not in (0, 1], or a value is not a number.
        """
        _check(self.rho, 0)
        self.values_of("")

    def values_of(self, selector: str) -> list[float]:
        """The values, by default those of a selector.

        Raises:
          InputError: one is not a number.
        """
        usual = THRESHOLDS if selector == "threshold" else EPSILONS
        found = []
        for value in filter(None, self.cuts.split(",")):
            try:
                found.append(float(value))
            except ValueError as error:
                raise InputError(f"cuts: {value!r} is not a number") from error
        return found or list(usual)


@dataclass(frozen=True)
class AgreeSettings:
    """Which selectors are compared.

    Attributes:
      selectors: of `select`, with commas between.
    """

    selectors: str = "auroc,average_precision,difference"

    def check(self) -> None:
        """Refuses what cannot be compared.

        Raises:
          InputError: there are fewer than two.
        """
        if "," not in self.selectors:
            raise InputError(f"selectors {self.selectors!r} are not two or more, with commas between")


@dataclass(frozen=True)
class AlignSettings:
    """How the frequency of units is compared with their attribution.

    Attributes:
      method: which attribution of the run: `gradient` or `integrated`.
      epsilon: share of a layer's units at the top that are compared, in (0, 1].
    """

    method: str = "gradient"
    epsilon: float = 0.05

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: epsilon is not in (0, 1].
        """
        if not 0 < self.epsilon <= 1:
            raise InputError(f"epsilon is {self.epsilon}: it must be above 0 and at most 1")


def _check(rho: float, seed: int, **counts: int) -> None:
    if not 0 < rho <= 1:
        raise InputError(f"rho is {rho}: it must be above 0 and at most 1")
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}: it must be 1 or more")
    if seed < 0:
        raise InputError(f"seed is {seed}: it must be 0 or more")
