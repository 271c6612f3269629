"""How sets are evaluated and compared: the settings of both analyses, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError


@dataclass(frozen=True)
class EvaluateSettings:
    """How generality and uniqueness are measured.

    Attributes:
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      permutations: shuffles of the labels, for each of the two null models.
      bootstraps: bootstrap samples of the instructions.
      strata: strata of length in the length-controlled null model.
      seed: seed of all draws; the same seed gives the same files.
    """

    rho: float = 0.5
    permutations: int = 1000
    bootstraps: int = 1000
    strata: int = 5
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: rho is not in (0, 1], or a number is too small.
        """
        _check(self.rho, self.seed, permutations=self.permutations, bootstraps=self.bootstraps, strata=self.strata)


@dataclass(frozen=True)
class CompareSettings:
    """How two models are compared.

    Attributes:
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      permutations: most relabellings of the categories in the test of a matrix correlation.
      bootstraps: bootstrap samples of the instructions.
      seed: seed of all draws; the same seed gives the same files.
    """

    rho: float = 0.5
    permutations: int = 1000
    bootstraps: int = 1000
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: rho is not in (0, 1], or a number is too small.
        """
        _check(self.rho, self.seed, permutations=self.permutations, bootstraps=self.bootstraps)


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
