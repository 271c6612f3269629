"""How units are switched off: the settings of an ablation, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError


@dataclass(frozen=True)
class AblationSettings:
    """How units are switched off and what is measured.

    Attributes:
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      draws: random sets of the same size, for each category.
      per_category: instructions of each category that are scored, the first in the run's order; 0 takes all.
      seed: seed of the random sets.
    """

    rho: float = 0.5
    draws: int = 20
    per_category: int = 0
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is out of range.
        """
        if not 0 < self.rho <= 1:
            raise InputError(f"rho must be within (0, 1], got {self.rho}")
        if self.draws < 1 or self.per_category < 0:
            raise InputError(f"draws {self.draws} must be positive and per_category {self.per_category} not negative")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
