"""How units are attributed: the settings, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError

METHODS = ("gradient", "integrated")


@dataclass(frozen=True)
class AttributeSettings:
    """How the likelihood of the reference responses is attributed to neurons and experts.

    Attributes:
      method: `gradient`, activation x gradient, or `integrated`, its mean on a path from all units off to all on.
      steps: points of the path of `integrated`; each costs as much as `gradient`.
      per_category: instructions of each category that are attributed, the first in the run's order; 0 takes all.
    """

    method: str = "gradient"
    steps: int = 16
    per_category: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is unknown, out of range, or without effect.
        """
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is not known; known: {', '.join(METHODS)}")
        if self.steps < 1:
            raise InputError(f"steps must be positive, got {self.steps}")
        if self.per_category < 0:
            raise InputError(f"per_category must not be negative, got {self.per_category}")
        if self.method == "gradient" and self.steps != AttributeSettings.steps:
            raise InputError(f"steps {self.steps} has no effect with method gradient; leave it out")

    @property
    def path(self) -> tuple[float, ...]:
        """What all units are multiplied by, point after point: 1 alone, or the midpoints of equal parts of 0 to 1."""
        if self.method == "gradient":
            return (1.0,)
        return tuple((step + 0.5) / self.steps for step in range(self.steps))
