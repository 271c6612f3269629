"""How sets are evaluated and compared: the settings of both analyses, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError
from sparcom_jax.resampling import STRATUM_ROWS


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


def _check(rho: float, seed: int, **counts: int) -> None:
    if not 0 < rho <= 1:
        raise InputError(f"rho is {rho}: it must be above 0 and at most 1")
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} is {count}: it must be 1 or more")
    if seed < 0:
        raise InputError(f"seed is {seed}: it must be 0 or more")
