"""How a model is fine-tuned: the settings, and their rules."""

import re
from dataclasses import dataclass

from sparcom_jax.errors import InputError

KINDS = {
    "units": "units:NAME:CATEGORY",
    "random": "random:NAME:CATEGORY",
    "experts": "experts:NAME:CATEGORY",
    "layers": "layers:0,5-7",
    "all": "all",
    "lora": "lora:RANK",
}
"""What may be trained, by kind, as it is written."""
OF_UNITS = ("units", "random", "experts")
SCHEDULES = ("cosine", "linear", "constant")


@dataclass(frozen=True)
class Train:
    """What is trained.

    Attributes:
      text: as it was written.
      kind: one of `KINDS`.
      name: of the units, or their file.
      category: whose units.
      layers: which layers.
      rank: of the products.
    """

    text: str
    kind: str
    name: str = ""
    category: str = ""
    layers: tuple[int, ...] = ()
    rank: int = 0


def parse_train(text: str) -> Train:
    """What `--train` names.

    Raises:
      InputError: it is none of `KINDS`.
    """
    kind, _, rest = text.partition(":")
    if kind in OF_UNITS:
        name, _, category = rest.rpartition(":")
        if name and category:
            return Train(text, kind, name, category)
    elif kind == "layers" and re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", rest):
        layers: set[int] = set()
        for part in rest.split(","):
            first, _, last = part.partition("-")
            layers |= {*range(int(first), int(last or first) + 1)}
        if layers:
            return Train(text, kind, layers=tuple(sorted(layers)))
    elif kind == "lora" and re.fullmatch(r"[1-9]\d*", rest):
        return Train(text, kind, rank=int(rest))
    elif text == "all":
        return Train(text, kind)
    raise InputError(f"train {text!r} is not known; known: {', '.join(KINDS.values())}")


def slug(train: str) -> str:
    """What is trained, as a part of a name."""
    return re.sub(r"[^\w.-]+", "-", train.replace(",", "_"))


@dataclass(frozen=True)
class TuneSettings:
    """How a model is fine-tuned, and on what.

    The loss is that of the responses' tokens, as a mean over those of a step. Instructions are dealt into halves as
    `select` deals them: one half is learnt from, the other held out.

    Attributes:
      category: whose instructions are learnt from; empty for those of all categories.
      half: which half of the instructions is learnt from: `first`, `second`, or `all`, so that none is held out.
      validation: share of these that is set aside, by which training is stopped early, in [0, 1).
      per_category: held-out instructions of each category that are evaluated, the first; 0 takes all.
      template: what stands around an instruction: `none`, `plain` or `chat`.
      epochs: how often each row is read.
      learning_rate: the highest.
      schedule: how it falls after the warm-up: `cosine` or `linear` to 0, or `constant`.
      warmup: share of the steps in which it rises, in [0, 1).
      weight_decay: of AdamW, on all but norms and biases.
      clip: largest norm of the gradient; 0 for none.
      accumulate: batches of a step, per device.
      evaluate_every: steps between evaluations; 0: after every epoch.
      patience: evaluations without a lower validation loss after which training stops, and the best is kept; 0: never.
      save_every: steps between checkpoints.
      recompute: whether the backward pass computes every layer anew: slower, with less memory.
      lora_alpha: of LoRA; the product is multiplied by `lora_alpha / rank`.
      keep_model: whether the tuned model is written; without it tables alone are.
      half_seed: of the dealing into halves, which is that of `select` with the same seed, and of what is set aside.
      seed: of the order of the rows, LoRA's beginning, and random units.
    """

    category: str = ""
    half: str = "first"
    validation: float = 0.1
    per_category: int = 0
    template: str = "none"
    epochs: int = 3
    learning_rate: float = 1e-4
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulate: int = 1
    evaluate_every: int = 0
    patience: int = 0
    save_every: int = 100
    recompute: bool = False
    lora_alpha: float = 16.0
    keep_model: bool = True
    half_seed: int = 0
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing, and such as are of no effect beside the others.

        Raises:
          InputError: a field is unknown, out of range, or without effect.
        """
        if self.half not in ("first", "second", "all"):
            raise InputError(f"half {self.half!r} is not known; known: first, second, all")
        if self.schedule not in SCHEDULES:
            raise InputError(f"schedule {self.schedule!r} is not known; known: {', '.join(SCHEDULES)}")
        for field in ("epochs", "accumulate", "save_every", "learning_rate", "lora_alpha"):
            if not 0 < getattr(self, field) < float("inf"):
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")
        for field in ("per_category", "weight_decay", "clip", "evaluate_every", "patience", "half_seed", "seed"):
            if not 0 <= getattr(self, field) < float("inf"):
                raise InputError(f"{field} must not be negative, got {getattr(self, field)}")
        for field in ("validation", "warmup"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f"{field} must be within [0, 1), got {getattr(self, field)}")
        if self.patience and not self.validation:
            raise InputError(f"patience {self.patience} has no effect with validation 0; set some instructions aside")


@dataclass(frozen=True)
class TuningsSettings:
    """How trainings of one model are compared.

    Attributes:
      seeds: trainings of each kind in a study, with the seeds from `tune.seed` on.
      bootstraps: bootstrap samples of the instructions and seeds.
      draws: random sets in the place of the units.
      seed: of the bootstrap and of the random sets.
    """

    seeds: int = 3
    bootstraps: int = 1000
    draws: int = 200
    seed: int = 0

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is out of range.
        """
        for field in ("seeds", "bootstraps", "draws"):
            if getattr(self, field) < 1:
                raise InputError(f"{field} must be positive, got {getattr(self, field)}")
        if self.seed < 0:
            raise InputError(f"seed must not be negative, got {self.seed}")
