"""Pieces of the page: numbers, tables and figures as HTML. All text that comes from data or paths is escaped here."""

import html
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sparcom_jax.results.numbers import UNDEFINED, Digits, number
from sparcom_jax.results.numbers import interval as interval
from sparcom_jax.results.numbers import mean as mean
from sparcom_jax.results.reader import Result
from sparcom_jax.results.summary import made_of

GROUPS = {
    "mlp": "dense MLP neurons",
    "shared": "shared-expert neurons",
    "routed": "routed-expert neurons",
    "expert": "routed experts",
}

_JSON_ESCAPES = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"})


@dataclass(frozen=True)
class Figure:
    """A chart of a section.

    Attributes:
      name: its name within the section, made of letters, digits and hyphens.
      spec: Vega-Lite.
      caption: what it shows, as plain text.
      sources: the tables that hold its numbers, as paths to print.
    """

    name: str
    spec: dict[str, Any]
    caption: str
    sources: Sequence[str]


@dataclass(frozen=True)
class Section:
    """What the page says about one result: pieces of HTML and figures, in order."""

    result: Result
    parts: list[str | Figure]

    @property
    def title(self) -> str:
        """Kind and name of the result, as plain text."""
        return self.result.kind if self.result.name == "." else f"{self.result.kind}: {self.result.name}"


@dataclass(frozen=True)
class Headlines:
    """What the top of the page says about all results of one kind: a table.

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


def text(value: object) -> str:
    """Any text, safe in HTML and in attributes."""
    return html.escape(str(value))


def code(value: object) -> str:
    """A path, a name or a digest."""
    return f"<code>{text(value)}</code>"


def paragraph(*sentences: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{text(' '.join(sentences))}</p>"


def heading(group: str) -> str:
    """The heading of a group of units, or of a target of ablation."""
    return f"<h3>{text(f'{group}: {GROUPS[group]}' if group in GROUPS else group)}</h3>"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], sources: Sequence[str] = (), *, title: str = "",
          folded: bool = False) -> str:  # fmt: skip
    """A table.

    Args:
      columns: their headings.
      rows: cells: numbers, text, or None for what is not defined.
      sources: the files that hold all its numbers, as paths to print.
      title: one line above it.
      folded: show the title only, until it is clicked.

    Returns:
      HTML.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    right = [any(isinstance(row[at], Digits) for row in cells) for at in range(len(columns))]
    head = "".join(_tag("th", name, align) for name, align in zip(columns, right, strict=True))
    body = "".join(
        f"<tr>{''.join(_tag('td', cell, align) for cell, align in zip(row, right, strict=True))}</tr>" for row in cells
    )
    inner = f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    inner += f"<p class='source'>{listed(sources)}</p>" if sources else ""
    if folded:
        return f"<details><summary>{text(title)}</summary>{inner}</details>"
    return (f"<p class='title'>{text(title)}</p>" if title else "") + inner


def listed(sources: Sequence[str]) -> str:
    """Where numbers come from, as HTML."""
    return f"Table: {', '.join(code(source) for source in sources)}"


def figure(shown: Figure, anchor: str) -> str:
    """A chart: the place where it is drawn, its caption, and its specification as data.

    Args:
      shown: the figure.
      anchor: id of the place.
    """
    caption = f"{text(shown.caption)} <span class='source'>{listed(shown.sources)}</span>"
    spec = script_json({"description": shown.caption, **shown.spec})
    return (
        f'<figure><div class="chart" id="{text(anchor)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
        f'<script type="application/json" data-chart="{text(anchor)}">{spec}</script>'
    )


def script_json(value: object) -> str:
    """JSON that can stand inside a script element whatever strings it holds."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).translate(_JSON_ESCAPES)


def settings(entries: dict[str, Any], leave_out: Iterable[str] = ()) -> str:
    """Settings in one line, as plain text: `epsilon 0.05, ties include`."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in entries.items() if name not in tuple(leave_out))


def how_made(side: dict[str, Any]) -> str:
    """How the sets, or the units, of a model were made, in one line; `side` is as in `made_of`."""
    return settings(made_of(side), ("schema_version", "groups", "run", "digest", "run_digest", "half", "set"))


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return f"({settings(value)})"
    if isinstance(value, list):
        return " ".join(map(_plain, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str) and not (value and value.isprintable()):
        return json.dumps(value)
    return UNDEFINED if value is None else str(value)


def _cell(value: object) -> str:
    if value is None or isinstance(value, int | float):
        return number(value)
    return value if isinstance(value, str) else str(value)


def _tag(tag: str, content: str, right: bool) -> str:
    return f"<{tag}{' class=n' if right else ''}>{text(content)}</{tag}>"
