"""Pieces of the page as HTML: numbers, tables, charts, choices. All text that comes from data is escaped here."""

import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.numbers import UNDEFINED, Digits, number
from sparcom_jax.results.reader import Row
from sparcom_jax.results.summary import made_of

GROUPS = {
    "mlp": "dense MLP neurons",
    "shared": "shared-expert neurons",
    "routed": "routed-expert neurons",
    "expert": "routed experts",
}

_TURNING = {"RLO", "LRO", "RLE", "LRE", "RLI", "LRI", "FSI", "PDF", "PDI", "R", "AL"}
MOST_ROWS = 200
"""Of a table, that the page has room for; its file has them all."""

DIGITS = 5
_JSON_ESCAPES = str.maketrans({mark: f"\\u{ord(mark):04x}" for mark in "<>&\u2028\u2029"})


def text(value: object) -> str:
    """Any text, safe in HTML and in attributes."""
    return html.escape(str(value))


def slug(name: str) -> str:
    """A name as part of an id: readable, and with a digest where it has other characters, so that no two are alike."""
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-.")
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def isolated(name: str) -> str:
    """A name as part of a sentence, which it cannot turn around: in isolation where it has marks of direction."""
    return f"\u2068{name}\u2069" if any(unicodedata.bidirectional(mark) in _TURNING for mark in name) else name


def code(value: object) -> str:
    """A path, a name or a digest."""
    return f"<code>{text(value)}</code>"


def paragraph(*sentences: str) -> str:
    """A paragraph of plain text."""
    return f"<p><bdi>{text(' '.join(filter(None, sentences)))}</bdi></p>"


def heading(name: str) -> str:
    """A heading within a question."""
    return f"<h3>{text(name)}</h3>"


def title_of(group: str) -> str:
    """A group of units, or a target of ablation, as plain text."""
    return f"{group}: {GROUPS[group]}" if group in GROUPS else group


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], sources: Sequence[str] = (), *, title: str = "",
          folded: bool = False) -> str:  # fmt: skip
    """A table, which the page lets its reader sort, filter and save.

    Args:
      columns: their headings.
      rows: cells: numbers, text, or None for what is not defined.
      sources: the files that hold all its numbers, as paths to print.
      title: one line above it.
      folded: show the title only, until it is clicked.

    Returns:
      HTML.
    """
    whole = list(rows)
    cells = [[_cell(value) for value in row] for row in whole[:MOST_ROWS]]
    right = [any(isinstance(row[at], Digits) for row in cells) for at in range(len(columns))]
    head = "".join(f'<th scope="col"{" class=n" if align else ""}>{text(name)}</th>'
                   for name, align in zip(columns, right, strict=True))  # fmt: skip
    body = "".join(
        f"<tr>{''.join(_data(cell, align) for cell, align in zip(row, right, strict=True))}</tr>" for row in cells
    )
    caption = f"<caption>{text(title)}</caption>" if title and not folded else ""
    inner = wide(f"<table class=data>{caption}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
                 title or "table")  # fmt: skip
    left_out = f"The first {MOST_ROWS} of {len(whole):,} rows. " if len(whole) > MOST_ROWS else ""
    inner += f"<p class='source'>{left_out}{listed(sources)}</p>" if sources else ""
    return f"<details><summary>{text(title)}</summary>{inner}</details>" if folded else inner


def wide(content: str, name: str) -> str:
    """Content that scrolls by itself where it is too wide or too long, also with the keys."""
    return f'<div class="wide" tabindex="0" role="group" aria-label="{text(name)}">{content}</div>'


def listed(sources: Sequence[str]) -> str:
    """Where numbers come from, as HTML."""
    return f"Table{'s' * (len(sources) > 1)}: {', '.join(code(source) for source in sources)}"


def render(parts: Iterable[Part], anchor: str) -> Iterator[str]:
    """Parts as HTML.

    Args:
      parts: in order.
      anchor: id of the place where they stand; those of charts begin with it.
    """
    for part in parts:
        if isinstance(part, Figure):
            yield _figure(part, f"{anchor}-{part.name}")
        elif isinstance(part, Choice):
            yield choice(part.label, {name: "".join(render(of, anchor)) for name, of in part.options.items()})
        else:
            yield part


def choice(label: str, options: Mapping[str, str], default: str = "") -> str:
    """Alternatives, of which scripts show one at a time; without them all are shown. A single one is shown as it is.

    Args:
      label: what is chosen, as plain text.
      options: HTML by name, which is plain text.
      default: the name of what is shown first; the first by default.
    """
    if len(options) == 1:
        return next(iter(options.values()))
    names = "".join(f"<option{' selected' if name == default else ''}>{text(name)}</option>" for name in options)
    shown = "".join(
        f'<div class="option" data-option="{text(name)}"><p class="chosen"><bdi>{text(name)}</bdi></p>{content}</div>'
        for name, content in options.items()
    )
    return (
        f'<div class="choice" data-choice="{text(label)}">'
        f'<label class="chooser">{text(label)} <select>{names}</select></label>{shown}</div>'
    )


def _figure(shown: Figure, anchor: str) -> str:
    """A chart: the place where it is drawn, its caption, and its specification as data."""
    caption = f"<bdi>{text(shown.caption)}</bdi> <span class='source'>{listed(shown.sources)}</span>"
    datasets = {name: packed(rows) for name, rows in shown.spec["datasets"].items()}
    spec = script_json({"description": shown.caption, **shown.spec, "datasets": datasets})
    return (
        f'<figure><div class="chart" id="{text(anchor)}"></div>'
        f"<figcaption>{caption}</figcaption></figure>"
        f'<script type="application/json" data-chart="{text(anchor)}">{spec}</script>'
    )


def packed(rows: Sequence[Row]) -> dict[str, Any]:
    """The rows of a chart without what repeats: the script of the page unpacks them.

    Returns:
      `names` of the fields; `rows`, lists of their values, where a text is its place among the `words`, and numbers
      have as many digits as a chart can show; and `coded`, which fields are texts.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    coded = [all(isinstance(row.get(name), str | None) for row in rows) for name in names]
    words: dict[str, int] = {}

    def value(row: Row, name: str, is_text: bool) -> Any:
        found = row.get(name)
        if isinstance(found, float):
            return float(f"{found:.{DIGITS}g}")
        return words.setdefault(found, len(words)) if is_text and found is not None else found

    values = [[value(row, name, is_text) for name, is_text in zip(names, coded, strict=True)] for row in rows]
    return {"names": names, "coded": coded, "words": list(words), "rows": values}


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


def _data(content: str, right: bool) -> str:
    if isinstance(content, Digits):
        return f"<td class=n>{text(content)}</td>"
    return f"<td{' class=n' if right else ''}><bdi>{text(content)}</bdi></td>"
