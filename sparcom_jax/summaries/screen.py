"""A summary on one screen: in a frame on a terminal, as plain lines in a log."""

import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from sparcom_jax.errors import first_of
from sparcom_jax.printable import printable
from sparcom_jax.results.numbers import UNDEFINED, Digits, number
from sparcom_jax.summaries.summary import Cell, Summary, Table

LINES, COLUMNS = 22, 100
"""The most that a summary takes, with frame and title."""
FRAME_LINES, FRAME_COLUMNS = 2, 4
LEAST_ROWS = 2
"""Of a table; where there is no room for them, the table is left out."""
LINES_OF_COMMANDS = 4
NARROWEST, WIDEST = 8, 36
"""Columns that a name is cut to."""
LEAST_COLUMNS = 24
"""Of a screen, however narrow the terminal is."""
GAP = "  "


@dataclass(frozen=True)
class Screen:
    """A summary as lines.

    Attributes:
      title: one line.
      body: what is said, each line with its style.
      commands: what may be run next; they stand below the frame, so that they can be copied.
    """

    title: str
    body: list[tuple[str, str]]
    commands: list[str]


def show(summary: Summary) -> None:
    """Writes a summary to stderr, where news go."""
    if not sys.stderr.isatty():
        screen = laid_out(summary, COLUMNS)
        print("\n".join([screen.title, *(text for text, _ in screen.body), *screen.commands]), file=sys.stderr)
        return
    console = Console(file=sys.stderr, highlight=False, markup=False, emoji=False)
    width = max(min(console.width, COLUMNS) - FRAME_COLUMNS, LEAST_COLUMNS)
    screen = laid_out(summary, width)
    body = Group(*(Text(text, style, no_wrap=True) for text, style in screen.body))  # of which Rich reads no markup
    title = Text(cut(screen.title, width - FRAME_COLUMNS // 2), "bold", no_wrap=True)
    console.print(Panel(body, title=title, title_align="left", border_style="dim", expand=False))
    for line in screen.commands:
        console.print(Text(line, "green", no_wrap=True), soft_wrap=True)


def laid_out(summary: Summary, width: int) -> Screen:
    """Lays a summary out: what does not fit is left out, and that is said.

    Args:
      summary: what is said.
      width: columns of a line, at most.

    Returns:
      Lines that take at most `LINES`, the frame included.
    """
    commands: list[str] = []
    for words in summary.next:
        if (lines := _command(words, width)) and len(commands) + len(lines) <= LINES_OF_COMMANDS:
            commands += lines
    names = max((len(name) for name, _ in summary.facts), default=0)
    facts = [cut(f"{name:<{names}}{GAP}{printable(value)}", width) for name, value in summary.facts]
    tables = [_lay_out(table, width) for table in summary.tables if table.rows]
    room = LINES - FRAME_LINES - len(commands) - len(facts)
    warnings = _warnings(summary.warnings, width, room - (tables[0].least if tables else 0))
    body = [*((line, "") for line in facts), *_fitted(tables, room - len(warnings)),
            *((line, "yellow") for line in warnings)]  # fmt: skip
    return Screen(cut(printable(summary.title), width), body, commands)


def cut(text: str, width: int) -> str:
    """Text of at most so many columns; dots say that some is left out."""
    if cell_len(text) <= width:
        return text
    while cell_len(text) > max(width - 3, 0):
        text = text[: len(text) - max((cell_len(text) - width) // 2, 1)]
    return f"{text}..."[:width]


def _warnings(warnings: Sequence[str], width: int, room: int) -> list[str]:
    """As many as there is room for, on two lines each at most."""
    lines: list[str] = []
    for at, warning in enumerate(warnings):
        first, *rest = textwrap.wrap(printable(warning), width - 2, break_on_hyphens=False) or [""]
        added = [f"! {cut(first, width - 2)}", *([f"  {cut(' '.join(rest), width - 2)}"] if rest else [])]
        left = len(warnings) - at
        if len(lines) + len(added) + (left > 1) > room:
            return [*lines, f"! and {left} more warnings" if lines else f"! {left} warnings"]
        lines += added
    return lines


def _command(words: Sequence[str], width: int) -> list[str]:
    """A command on several lines, as a shell takes it; none where that cannot be."""
    lines = [""]
    for word in words:
        if lines[-1] and cell_len(f"{lines[-1]} {word} \\") > width:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    lines = [f"{one} \\" for one in lines[:-1]] + lines[-1:]
    return lines if all(printable(one) == one and cell_len(one) <= width for one in lines) else []


@dataclass(frozen=True)
class _LaidOut:
    head: list[str]
    rows: list[str]
    what: str

    @property
    def least(self) -> int:
        return len(self.head) + min(len(self.rows), LEAST_ROWS)


def _lay_out(table: Table, width: int) -> _LaidOut:
    """A table in columns, numbers to the right; where it is too wide, names are cut and then columns left out."""
    cells = [[_cell(value) for value in row] for row in table.rows]
    right = [any(isinstance(row[at], Digits) for row in cells) for at in range(len(table.columns))]
    widths = [max(map(cell_len, (name, *(row[at] for row in cells)))) for at, name in enumerate(table.columns)]
    # What stands last may be as long as there is room.
    widths = [min(size, WIDEST if at < len(widths) - 1 and not right[at] else width) for at, size in enumerate(widths)]
    names = [at for at, digits in enumerate(right) if not digits]
    while _total(widths) > width and any(widths[at] > NARROWEST for at in names):
        widths[max(names, key=lambda at: widths[at])] -= 1
    while _total(widths) > width and len(widths) > 1:
        del widths[-1]
    left_out = table.columns[len(widths) :]
    without = f" (left out: {first_of(left_out, 3)})" if left_out else ""
    title = f"{cut(printable(table.title), max(width - len(without), 0))}{without}".strip()
    rows = [_row(row, widths, right, width) for row in (list(table.columns), *cells)]
    return _LaidOut([*([cut(title, width)] if title else []), rows[0]], rows[1:], table.what)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(GAP) * (len(widths) - 1)


def _row(cells: Sequence[str], widths: Sequence[int], right: Sequence[bool], width: int) -> str:
    placed = []
    for cell, size, digits in zip(cells, widths, right, strict=False):
        shown = cut(cell, size)
        blank = " " * (size - cell_len(shown))
        placed.append(f"{blank}{shown}" if digits else f"{shown}{blank}")
    return cut(GAP.join(placed).rstrip(), width)


def _cell(value: Cell) -> str:
    if value is None or isinstance(value, int | float):
        return Digits(number(value).replace(UNDEFINED, "-"))
    return Digits(value.replace(UNDEFINED, "-")) if isinstance(value, Digits) else printable(value)


def _fitted(tables: Sequence[_LaidOut], room: int) -> list[tuple[str, str]]:
    """The lines of as many tables as there is room for, and of each as many rows, with their styles."""
    count = len(tables)
    while count > 1 and sum(one.least for one in tables[:count]) + (count < len(tables)) > room:
        count -= 1
    left_out = [(f"... and {len(tables) - count} more tables", "dim")] if count < len(tables) else []
    shown, lines = tables[:count], []
    rows = _shared([len(one.rows) for one in shown], room - len(left_out) - sum(len(one.head) for one in shown))
    for table, most in zip(shown, rows, strict=True):
        lines += [(line, "bold") for line in table.head[:-1]] + [(table.head[-1], "dim")]
        kept = len(table.rows) if len(table.rows) <= most else most - 1
        lines += [(line, "") for line in table.rows[:kept]]
        if more := len(table.rows) - kept:
            lines.append((f"... and {more} more {table.what}", "dim"))
    return lines + left_out


def _shared(wanted: Sequence[int], room: int) -> list[int]:
    """Shares a room out: each gets what it wants, or as much as the others that want more."""
    given = [0] * len(wanted)
    while sum(given) < room and (hungry := [at for at, most in enumerate(wanted) if given[at] < most]):
        for at in hungry[: room - sum(given)]:
            given[at] += 1
    return given
