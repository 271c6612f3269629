"""How the units of a category are chosen: the settings of a selection, and their rules."""

from dataclasses import dataclass

from sparcom_jax.errors import InputError

SELECTORS: dict[str, tuple[str, ...]] = {
    "auroc": ("expert_size", "control_length", "q"),
    "average_precision": ("expert_size", "control_length"),
    "difference": ("expert_size", "control_length", "q"),
    "lape": ("expert_size",),
    "core": ("expert_size", "rho"),
    "unique": ("expert_size", "rho"),
    "general": ("expert_size", "rho"),
    "esft_gate": ("layer_share", "by_layers"),
    "esft_token": ("layer_share", "by_layers"),
    "risk_difference": (),
    "reap": (),
    "attribution": ("expert_size", "method"),
}
"""By selector, the settings that it reads beside those that all read."""
OF_COUNTS = ("auroc", "average_precision", "difference", "lape")
"""Those that read the counts of neurons, which a run that keeps sets does not have."""
WITH_RULE = ("lape", "core", "unique", "general", "esft_gate", "esft_token")
"""Those that have a rule of their own for how many units a category has, where no size is given."""
OF_ALL = ("selector", "size", "share", "half", "seed")


@dataclass(frozen=True)
class SelectSettings:
    """How the units of a category are chosen, and by which instructions.

    Attributes:
      selector: `auroc`, or another of docs/method.md; several, with commas between, share one pass.
      size: neurons of each category (experts where only these are scored); 0: the selector's rule, or 400 and 8.
      expert_size: experts of each category, where a selector scores neurons too; 0 as for `size`.
      share: instead of both sizes, share of all neurons and of all experts, in (0, 1].
      q: instead of sizes, all units with a q-value of at most this, over units and categories.
      half: the instructions that choose: `first` or `second`, half of each category, or `all`.
      control_length: whether instructions are compared with such of similar length only.
      rho: share of a category's instructions that must hold a core unit, in (0, 1].
      layer_share: for `esft_gate`, `esft_token`: relevance at which a layer has enough; 0: 0.1 and 0.2.
      by_layers: for these two: relevance by its sum over layers, as their code has it, not the paper.
      method: for `attribution`: which attribution of the run, `gradient` or `integrated`.
      seed: of the dealing into halves.
    """

    selector: str = "auroc"
    size: int = 0
    expert_size: int = 0
    share: float = 0.0
    q: float = 0.0
    half: str = "first"
    control_length: bool = True
    rho: float = 0.5
    layer_share: float = 0.0
    by_layers: bool = False
    method: str = "gradient"
    seed: int = 0

    @property
    def selectors(self) -> list[str]:
        """Those that are named."""
        return self.selector.split(",")

    def check(self) -> None:
        """Refuses values that mean nothing, and such as are of no effect beside the others.

        Raises:
          InputError: a field is unknown, out of range, or without effect.
        """
        for name in self.selectors:
            if name not in SELECTORS:
                raise InputError(f"selector {name!r} is not known; known: {', '.join(SELECTORS)}")
        if len({*self.selectors}) < len(self.selectors):
            raise InputError(f"selector {self.selector!r} names one twice")
        if self.half not in ("first", "second", "all"):
            raise InputError(f"half {self.half!r} is not known; known: first, second, all")
        for field in ("size", "expert_size", "seed"):
            if getattr(self, field) < 0:
                raise InputError(f"{field} must not be negative, got {getattr(self, field)}")
        for field in ("share", "q", "layer_share"):
            if not 0 <= getattr(self, field) <= 1:
                raise InputError(f"{field} must be within (0, 1], or 0 for none, got {getattr(self, field)}")
        if not 0 < self.rho <= 1:
            raise InputError(f"rho must be within (0, 1], got {self.rho}")
        sized = [field for field in ("size", "share", "q") if getattr(self, field)]
        if self.expert_size and not self.size:
            sized.append("expert_size")
        if len(sized) > 1:
            raise InputError(f"{' and '.join(sized)} both say how many units; give one")
        self._refuse_idle()

    def _refuse_idle(self) -> None:
        read = {field for name in self.selectors for field in (*OF_ALL, *SELECTORS[name])}
        for field, value in vars(self).items():
            if field not in read and value != getattr(SelectSettings, field):
                raise InputError(f"{field} {value} has no effect with selector {self.selector}; leave it out")
        if self.q and (untested := [name for name in self.selectors if "q" not in SELECTORS[name]]):
            raise InputError(f"q {self.q} needs p-values, which selector {untested[0]} does not have")

    def read_by(self, selector: str) -> dict[str, object]:
        """The settings that a selector reads, but for its name, the half and the seed, which are recorded by all."""
        return {field: getattr(self, field) for field in ("share", *SELECTORS[selector])}
