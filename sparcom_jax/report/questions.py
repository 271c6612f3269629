"""The sections of the page, each a question, and what of every kind of results answers it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from sparcom_jax.report import (
    ablate,
    agree,
    align,
    answer,
    compare,
    evaluate,
    experts,
    explore,
    finetune,
    steer,
    sweep,
    tunings,
)
from sparcom_jax.report.parts import Headlines, Part
from sparcom_jax.results.reader import Result


@dataclass(frozen=True, eq=False)
class Question:
    """A section of the page.

    Attributes:
      anchor: its id.
      title: what is asked.
      answers: by kind of results, what of a result answers it; nothing where it says nothing of it.
      headlines: by kind of results, the table of all of them.
    """

    anchor: str
    title: str
    answers: Mapping[str, Callable[[Result], Sequence[Part]]]
    headlines: Mapping[str, Headlines] = field(default_factory=dict)


QUESTIONS = (
    Question("matter", "Does switching them off matter?",
             {"ablate": ablate.effects, "answer": answer.answers, "steer": steer.steering},
             {"ablate": ablate.HEADLINES}),
    Question("units", "Which units are they?", {"explore": explore.cards}),
    Question("own", "Do kinds have units of their own?", {"evaluate": evaluate.own, "sweep": sweep.sweep},
             {"evaluate": evaluate.HEADLINES}),
    Question("where", "Where are they?", {"evaluate": evaluate.where}),
    Question("tuning", "What did tuning change?", {"compare": compare.changes}, {"compare": compare.HEADLINES}),
    Question("trained", "What does tuning them do?", {"tunings": tunings.comparison, "finetune": finetune.training},
             {"finetune": finetune.HEADLINES}),
    Question("selectors", "Which selector?", {"agree": agree.agreement}, {"ablate": ablate.BY_SELECTOR}),
    Question("attribution", "Are the active units those that matter?", {"align": align.alignment},
             {"align": align.HEADLINES}),
    Question("experts", "Do experts specialise?", {"evaluate": experts.specialisation}),
    Question("across", "What do different models share?", {"compare": compare.common}),
)  # fmt: skip
"""In the order of the page."""
