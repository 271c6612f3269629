"""How units are edited in a checkpoint: the settings, and their rules."""

import math
from dataclasses import dataclass

from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import TARGETS

HOW = ("zero", "scale")
EXPERTS = ("zero", "mask")


@dataclass(frozen=True)
class EditSettings:
    """What becomes of the units of a category.

    Attributes:
      target: what is edited, `neurons` or `experts`.
      how: what they write is 0 (`zero`), or `alpha` times what it was (`scale`).
      alpha: factor of `scale`.
      experts: with `zero`, experts are still chosen and write nothing (`zero`), or are never chosen (`mask`).
    """

    target: str = "neurons"
    how: str = "zero"
    alpha: float = 0.0
    experts: str = "zero"

    @property
    def factor(self) -> float:
        """What the output of a unit is multiplied by."""
        return self.alpha if self.how == "scale" else 0.0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is unknown or out of range, or has no effect beside another.
        """
        for field, known in (("target", tuple(TARGETS)), ("how", HOW), ("experts", EXPERTS)):
            if (value := getattr(self, field)) not in known:
                raise InputError(f"{field} {value!r} is not known; known: {', '.join(known)}")
        if self.alpha and self.how != "scale":
            raise InputError(f"alpha {self.alpha} has no effect with how {self.how}; leave it out")
        if not math.isfinite(self.alpha):
            raise InputError(f"alpha must be finite, got {self.alpha}")
        if self.experts != EditSettings.experts and (self.target, self.how) != ("experts", "zero"):
            raise InputError(f"experts {self.experts} has no effect with target {self.target} and how {self.how}; "
                             f"leave it out")  # fmt: skip
