"""How S(i) is chosen: the settings of a selection, their rules, and how many units they ask for."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypedDict

from sparcom_jax.errors import InputError
from sparcom_jax.shares import least_whole
from sparcom_jax.units.groups import EXPERT_GROUP, Group

SELECTORS = ("excess", "frequency", "threshold")
OF_ONE_INSTRUCTION = ("frequency", "threshold")
"""Those that need no other instruction, and so can be cut while a model runs."""
OF_NEURONS = ("selector", "epsilon", "threshold", "ties", "pool")


@dataclass(frozen=True)
class Selection:
    """How S(i) is chosen; recorded with the sets.

    Attributes:
      selector: `excess` or `frequency`, the top share of the units by it, or `threshold`, all that reach one.
        Excess is that over the unit's own rate in the run; frequency alone finds the units that are always on.
      epsilon: share of the units of a group, in (0, 1], but for `threshold`: k = ceil(epsilon U).
      threshold: least activation frequency, in (0, 1], for the selector `threshold`.
      ties: units that tie at the cut: `include` takes all of them, `drop` none, `exact` as many as fill k. Those come
        by falling mean activation, where it is stored, then by index. With the selector `threshold` it holds for
        experts alone. A unit that is never active, or with `excess` not above its rate, is in no set.
      pool: cut all neuron groups together instead of each by itself, but for `threshold`.
      expert_per_layer: experts taken in each layer; 0 takes as many as a token is routed to.
      expert_epsilon: if above 0, experts are taken as a top share over all layers instead.
    """

    selector: str = "excess"
    epsilon: float = 0.05
    threshold: float = 0.9
    ties: str = "include"
    pool: bool = False
    expert_per_layer: int = 0
    expert_epsilon: float = 0.0

    def check(self) -> None:
        """Refuses values that mean nothing, and such as are of no effect beside the others on any model.

        Raises:
          InputError: a field is unknown, out of range, or without effect.
        """
        if self.selector not in SELECTORS:
            raise InputError(f"selector {self.selector!r} is not known; known: {', '.join(SELECTORS)}")
        if self.ties not in ("include", "drop", "exact"):
            raise InputError(f"ties {self.ties!r} is not known; known: include, drop, exact")
        for field in ("epsilon", "threshold"):
            if not 0 < getattr(self, field) <= 1:
                raise InputError(f"{field} must be within (0, 1], got {getattr(self, field)}")
        if not 0 <= self.expert_epsilon <= 1 or self.expert_per_layer < 0:
            raise InputError(
                f"expert_epsilon {self.expert_epsilon} and expert_per_layer {self.expert_per_layer} "
                f"must be 0 or positive, the former at most 1"
            )
        idle = ("epsilon", "pool") if self.selector == "threshold" else ("threshold",)
        for field in idle:
            if (value := getattr(self, field)) != getattr(Selection, field):
                raise InputError(f"{field} {value} has no effect with selector {self.selector}; leave it out")
        if self.expert_epsilon > 0 and self.expert_per_layer > 0:
            raise InputError(f"expert_per_layer {self.expert_per_layer} has no effect with expert_epsilon "
                             f"{self.expert_epsilon}, which takes a share over all layers; leave one out")  # fmt: skip

    def require_alone(self) -> None:
        """Refuses a selector that cannot cut an instruction without knowing the others, as a capture would have to.

        Raises:
          InputError: it is one.
        """
        if self.selector not in OF_ONE_INSTRUCTION:
            raise InputError(f"identify.selector {self.selector} needs the counts of all instructions: it takes "
                             f"capture.keep=counts, or for sets {' or '.join(OF_ONE_INSTRUCTION)}")  # fmt: skip

    def idle(self, groups: Collection[str]) -> list[str]:
        """What has no effect on a model with these groups; on others it may, so it is said and not refused.

        A study, and a comparison across architectures, has one selection for models with and without experts.
        """
        neurons = [group for group in groups if group != EXPERT_GROUP]
        notes = []
        if self.pool and len(neurons) == 1:
            notes.append(f"pool has no effect: {neurons[0]} is the only group of neurons")
        if EXPERT_GROUP not in groups:
            notes += [f"{field} {getattr(self, field)} has no effect: the model has no routed experts"
                      for field in ("expert_per_layer", "expert_epsilon") if getattr(self, field)]  # fmt: skip
            if self.selector == "threshold" and self.ties != Selection.ties:
                notes.append(f"ties {self.ties} has no effect: nothing ties at a threshold, and the model has no "
                             f"routed experts")  # fmt: skip
        return notes

    def of_neurons(self) -> dict[str, Any]:
        """The fields that decide about neurons."""
        return {name: value for name, value in asdict(self).items() if name in OF_NEURONS}

    def cut_together(self, neurons: Sequence[Group]) -> list[list[Group]]:
        """The neuron groups, those in one list that are cut together."""
        return [list(neurons)] if self.pool else [[group] for group in neurons]


class SelectionFields(TypedDict, total=False):
    """The fields of `Selection`, any of which `identify` takes by name."""

    selector: str
    epsilon: float
    threshold: float
    ties: str
    pool: bool
    expert_per_layer: int
    expert_epsilon: float


def share_of(share: float, groups: Sequence[Group]) -> int:
    """How many units a share asks for: k = ceil(share U), with U the number of units of the groups."""
    return least_whole(share, sum(group.unit_count for group in groups))
