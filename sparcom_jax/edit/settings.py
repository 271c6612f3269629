"""How units are edited in a checkpoint: the settings, and their rules."""

import math
from dataclasses import dataclass

from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import TARGETS

HOW = ("zero", "scale", "mean")
EXPERTS = ("zero", "mask")


@dataclass(frozen=True)
class EditSettings:
    """What becomes of the units of a category.

    Attributes:
      target: what is edited, `neurons` or `experts`.
      how: what they write is 0 (`zero`), `alpha` times what it was (`scale`), or what it is at their mean (`mean`),
        which a bias of the down projection has to hold.
      alpha: factor of `scale`.
      experts: with `zero`, experts are still chosen and write nothing (`zero`), or are never chosen (`mask`).
      prune: instead of all that, so many units of every layer, those with the highest scores, are taken out; 0: none.
    """

    target: str = "neurons"
    how: str = "zero"
    alpha: float = 0.0
    experts: str = "zero"
    prune: int = 0

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
        if (self.how, self.target) == ("mean", "experts"):
            raise InputError("how mean is of neurons; experts can be zero or scaled")
        if self.prune < 0:
            raise InputError(f"prune must not be negative, got {self.prune}")
        if self.prune and (self.how, self.experts) != (EditSettings.how, EditSettings.experts):
            raise InputError(f"how {self.how} and experts {self.experts} have no effect with prune {self.prune}, which "
                             f"takes units out; leave them out")  # fmt: skip
        if self.experts != EditSettings.experts and (self.target, self.how) != ("experts", "zero"):
            raise InputError(f"experts {self.experts} has no effect with target {self.target} and how {self.how}; "
                             f"leave it out")  # fmt: skip
