"""What the page is made of: pieces of HTML, charts, and choices between them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A chart.

    Attributes:
      name: its name within its result, made of letters, digits and hyphens.
      spec: Vega-Lite.
      caption: what it shows, as plain text.
      sources: the tables that hold its numbers, as paths to print.
    """

    name: str
    spec: dict[str, Any]
    caption: str
    sources: Sequence[str]


@dataclass(frozen=True)
class Choice:
    """Alternatives, of which the page shows one at a time.

    Attributes:
      label: what is chosen, such as `units`.
      options: the parts of each alternative by its name, which is plain text.
    """

    label: str
    options: "Mapping[str, Sequence[Part]]"


Part = str | Figure | Choice
"""A piece of HTML, a chart, or a choice."""


@dataclass(frozen=True)
class Finding:
    """What a result says, in a sentence or two.

    Attributes:
      sentences: plain text, with numbers, intervals and controls.
      carried: whether the statistics carry a positive answer; else the sentences say that they do not.
    """

    sentences: str
    carried: bool


def figures(parts: Iterable[Part]) -> Iterator[Figure]:
    """All charts among some parts, also those that a choice hides."""
    for part in parts:
        if isinstance(part, Figure):
            yield part
        elif isinstance(part, Choice):
            for option in part.options.values():
                yield from figures(option)


@dataclass(frozen=True)
class Headlines:
    """A table of all results of one kind, at the head of their question.

    Attributes:
      title: of the table.
      columns: its headings.
      meaning: how to read it, as plain text.
      rows: gives the rows of one result, from it and a name of the model of each side.
    """

    title: str
    columns: Sequence[str]
    meaning: str
    rows: Callable[..., Iterator[Sequence[object]]]
