"""A summary on one screen: how it is laid out, on a terminal and in a log, whatever stands in it."""

import io
import re
import shlex
import sys

import pytest
from rich.cells import cell_len

from sparcom_jax.results.numbers import Digits
from sparcom_jax.summaries.screen import COLUMNS, FRAME_COLUMNS, FRAME_LINES, LINES, cut, laid_out, show
from sparcom_jax.summaries.summary import Summary, Table, command

HOSTILE = "[red]x[/red] \x1b[31m\x07\x9b \r\n\t\u202e" + "very-long " * 400


class Screen(io.StringIO):
    encoding = "utf-8"

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def shown(summary: Summary, monkeypatch: pytest.MonkeyPatch, *, terminal: bool = False, columns: int = 80) -> str:
    for name, value in {"COLUMNS": str(columns), "LINES": "24", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    screen = Screen(terminal)
    monkeypatch.setattr(sys, "stderr", screen)
    show(summary)
    return screen.getvalue()


def without_colours(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines()


SMALL = Summary(
    "select: run, units auroc",
    [("model", "hub/made-up"), ("of", "600 of 1,200")],
    [Table(("category", "units", "first"), [["CLS", 400, "L1.N2"], ["MATH", 12345, "L3.E4.N5"]])],
    ["Few units."],
    [command("ablate", run="my run", output="DIR")],
)


def test_plain_lines_in_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(SMALL, monkeypatch).splitlines() == [
        "select: run, units auroc",
        "model  hub/made-up",
        "of     600 of 1,200",
        "category   units  first",
        "CLS          400  L1.N2",
        "MATH      12,345  L3.E4.N5",
        "! Few units.",
        "sparcom ablate --run='my run' --output=DIR",
    ]


def test_a_frame_on_a_terminal_with_the_commands_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured = shown(SMALL, monkeypatch, terminal=True)
    assert "\x1b[33m! Few units." in coloured
    lines = without_colours(coloured)
    plain = without_colours(shown(SMALL, monkeypatch))
    assert lines[0].startswith("╭─ select: run, units auroc ─")
    assert [line.strip("│ ") for line in lines[1:-2]] == plain[1:-1]
    assert lines[-2].startswith("╰")
    assert lines[-1] == plain[-1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert not re.search(r"\x1b\[[0-9;]*3\d", shown(SMALL, monkeypatch, terminal=True))


def many(count: int, name: str = "category") -> Summary:
    rows = [[f"{name} {at}", at, at / 7, Digits(f"{at}, {at / 3:.3f}")] for at in range(count)]
    tables = [Table(("category", "units", "mean", "both"), rows, f"table {at}") for at in range(3)]
    return Summary(name, [("a", name)] * 5, tables, [f"{name} is weak. " * 20] * 9,
                   [command("report", results=f"some/{'where/' * 8}{at}") for at in range(5)])  # fmt: skip


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("columns", [30, 80, 100, 300])
@pytest.mark.parametrize("summary", [many(60), many(1), many(60, HOSTILE), many(60, "漢字" * 30)],
                         ids=["60 categories", "one", "hostile", "wide"])  # fmt: skip
def test_it_stays_on_a_screen(summary: Summary, columns: int, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = shown(summary, monkeypatch, terminal=terminal, columns=columns)
    lines = without_colours(written)
    assert len(lines) <= LINES
    assert max(map(cell_len, lines)) <= (min(columns, COLUMNS) if terminal else COLUMNS)
    assert all(one.isprintable() for line in lines for one in line)
    colours = set(re.findall(r"\x1b\[[^a-zA-Z]*[a-zA-Z]", written))
    assert bool(colours) == terminal
    assert "\x1b[31m" not in colours  # which the name asks for


def test_what_is_left_out_is_said() -> None:
    rows = [[f"c{at}", at] for at in range(60)]
    lines = [line for line, _ in laid_out(Summary("t", tables=[Table(("category", "units"), rows)]), 76).body]
    assert len(lines) == LINES - FRAME_LINES
    assert lines[-2:] == ["c17          17", "... and 42 more categories"]
    both = Summary("t", tables=[Table(("category", "units"), rows), Table(("pair", "units"), rows[:3], what="pairs")])
    lines = [line for line, _ in laid_out(both, 76).body]
    assert lines[-4:] == ["pair  units", "c0        0", "c1        1", "c2        2"]
    assert [line for line in lines if line.startswith("...")] == ["... and 46 more categories"]
    tables = Summary("t", tables=[Table(("category", "units"), rows)] * 9)
    lines = [line for line, _ in laid_out(tables, 76).body]
    assert len(lines) <= LINES - FRAME_LINES
    assert lines[-1] == "... and 3 more tables"


def test_columns_that_do_not_fit_are_named() -> None:
    wide = Table(["category", *(f"number {at}" for at in range(12))], [["x" * 90, *range(12)]], "title " * 20)
    lines = [line for line, _ in laid_out(Summary("t", tables=[wide]), 60).body]
    title, header, row = lines
    kept = len(header.split()) // 2
    assert title.endswith(f"... (left out: number {kept}, number {kept + 1}, number {kept + 2} and {9 - kept} more)")
    assert header.split("  ")[0] == "category"
    assert row.split()[1:] == [str(at) for at in range(len(row.split()) - 1)]
    assert max(map(len, lines)) <= 60


def test_warnings_are_counted_where_there_is_no_room_for_all() -> None:
    rows = [["c", 1]] * 4
    summary = Summary("t", [("a", "b")], [Table(("category", "units"), rows)], [f"Warning {at}." for at in range(40)])
    lines = [line for line, _ in laid_out(summary, 76).body]
    assert len(lines) == LINES - FRAME_LINES
    warnings = [line for line in lines if line.startswith("!")]
    assert warnings[0] == "! Warning 0."
    left = 40 - (len(warnings) - 1)
    assert warnings[-1] == f"! and {left} more warnings"
    assert "c             1" in lines


def test_commands_are_those_of_a_shell() -> None:
    words = command("ablate", run="it's here", model="m", output="DIR")
    assert shlex.split(" ".join(words)) == ["sparcom", "ablate", "--run=it's here", "--model=m", "--output=DIR"]
    long = command("ablate", run=f"{'a b/' * 15}r", model="m" * 40)
    lines = laid_out(Summary("t", next=[long]), 76).commands
    assert len(lines) > 1
    assert max(map(len, lines)) <= 76
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(" ".join(long))
    assert laid_out(Summary("t", next=[command("report", results="x" * 90)]), 76).commands == []
    assert laid_out(Summary("t", next=[command("report", results="x\x1b[2J")]), 76).commands == []


def test_cut() -> None:
    assert [cut("abcdef", width) for width in (6, 5, 3, 2)] == ["abcdef", "ab...", "...", ".."]
    assert cut("漢字漢字", 7) == "漢字..."
    assert cut("漢字漢字", 6) == "漢..."
    assert FRAME_COLUMNS == 4
