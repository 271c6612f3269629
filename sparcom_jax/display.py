"""What things show of themselves: as text, and as HTML in notebooks, of either colour."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STYLE = "border-collapse:collapse;font-size:90%;margin:0.3em 0;color:inherit;background:transparent"
"""Of tables: the notebook's own colours."""
CELL = "text-align:left;vertical-align:top;padding:0.1em 0.8em 0.1em 0;border:0;color:inherit;background:transparent"


@dataclass(frozen=True)
class Display:
    """What is shown of a thing: a screen at most.

    Attributes:
      title: what it is.
      fields: names and values, a line each.
      columns: headings of a table below them; empty without one.
      rows: its rows.
    """

    title: str
    fields: Sequence[tuple[str, str]]
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()

    def text(self) -> str:
        """Lines of text, their cells aligned."""
        lines = [self.title, *_aligned(self.fields)]
        return "\n".join(lines + (_aligned([self.columns, *self.rows]) if self.rows else []))

    def html(self) -> str:
        """HTML without scripts; all text is escaped."""
        fields = "".join(_row("td", [f"{name}", value], "opacity:0.7") for name, value in self.fields)
        parts = [f"<div><strong>{html.escape(self.title)}</strong>{_table(fields)}"]
        if self.rows:
            parts.append(_table(_row("th", self.columns) + "".join(_row("td", row) for row in self.rows)))
        return "".join([*parts, "</div>"])


def counts(names: Iterable[str], sizes: Iterable[int], limit: int = 12) -> str:
    """How many there are of each of some names, for example `CLS 200, CODE 200`."""
    listed = [f"{name} {size:,}" for name, size in zip(names, sizes, strict=True)]
    return ", ".join(listed[:limit]) + (f" and {len(listed) - limit} more" if len(listed) > limit else "")


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    width = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return ["  " + "  ".join(f"{cell:<{size}}" for cell, size in zip(row, width, strict=True)).rstrip() for row in rows]


def _table(rows: str) -> str:
    return f'<table style="{STYLE}">{rows}</table>'


def _row(tag: str, cells: Sequence[str], first: str = "") -> str:
    styles = [f"{CELL};{first}" if first and not at else CELL for at in range(len(cells))]
    inner = (f'<{tag} style="{style}">{html.escape(cell)}</{tag}>' for cell, style in zip(cells, styles, strict=True))
    return f"<tr>{''.join(inner)}</tr>"
