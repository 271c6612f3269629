"""What is shown of long work, on a terminal and in a log, and while steps are compiled."""

import io
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sparcom_jax as sj
from sparcom_jax import progress as module
from sparcom_jax.attribution import attribute as attribute_module
from sparcom_jax.capture import capture as capture_module
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal import ablate as ablate_module
from sparcom_jax.causal import likelihood as likelihood_module
from sparcom_jax.causal import measure as measure_module
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.progress import compiling, progress, say


class Screen(io.StringIO):
    """What was written, and whether that was to a terminal."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    @property
    def drawn(self) -> list[str]:
        """Every state of the line, or every line."""
        return [line for line in re.split(r"[\r\n]", self.getvalue()) if line.strip()]


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], Screen]:
    def make(terminal: bool) -> Screen:
        made = Screen(terminal)
        monkeypatch.setattr(sys, "stderr", made)
        return made

    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    return make


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_bar_says_that_a_step_is_compiled_and_for_how_long(screen: Callable[[bool], Screen]) -> None:
    terminal = screen(True)
    with progress("capture", 1200, "instructions") as bar:
        with compiling():
            wait_until(lambda: "compiling for 1 s" in terminal.getvalue())
        of_compiling = len(terminal.drawn)
        bar.advance(300)
        wait_until(lambda: len(terminal.drawn) > of_compiling + 1)
    assert any(line.startswith("capture, compiling for 0 s:   0%") for line in terminal.drawn)
    assert any(line.startswith("capture, compiling for 1 s:   0%") for line in terminal.drawn)
    last = terminal.drawn[-1]
    assert last.startswith("capture:  25%")
    assert " 300/1200 " in last
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_the_longest_of_several_compilations_is_told(
    screen: Callable[[bool], Screen], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, now = screen(False), [100.0]
    monkeypatch.setattr(module, "TICK_SECONDS", 1000)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("ablate", 8, "responses") as bar, compiling():
        now[0] += 12
        with compiling():
            bar.advance(2)
        now[0] += 12
        bar.advance(2)
    first, second = log.drawn
    assert first == "ablate: 2/8 responses, 0.2 responses/s, 36 s left, compiling for 12 s"
    assert second == "ablate: 4/8 responses, 0.2 responses/s, 24 s left, compiling for 24 s"


def test_a_log_gets_a_line_now_and_then(screen: Callable[[bool], Screen], monkeypatch: pytest.MonkeyPatch) -> None:
    log, now = screen(False), [0.0]
    monkeypatch.setattr(module, "TICK_SECONDS", 1000)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with progress("capture", 1000, "instructions", done=500) as bar:
        for _ in range(500):
            now[0] += 0.1
            bar.advance()
    assert len(log.drawn) == 5  # 50 seconds
    assert log.drawn[-1] == "capture: 1000/1000 instructions, 10.0 instructions/s, 0 s left"
    assert "\x1b" not in log.getvalue()
    assert "\r" not in log.getvalue()


def test_a_log_says_that_a_step_is_compiled(screen: Callable[[bool], Screen], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOG_EVERY_SECONDS", 0.2)
    log = screen(False)
    with progress("capture", 10, "instructions"):
        time.sleep(0.5)
        assert not log.drawn  # nothing is compiled, and nothing advances
        began = time.monotonic()
        with compiling():
            wait_until(lambda: len(log.drawn) > 2)
        elapsed = time.monotonic() - began
    assert re.fullmatch(r"capture: 0/10 instructions, compiling for \d s", log.drawn[0])
    assert len(log.drawn) <= elapsed / 0.2 + 1


def test_the_bar_goes_when_the_work_fails(screen: Callable[[bool], Screen]) -> None:
    for terminal in (True, False):
        screen(terminal)
        with pytest.raises(ValueError, match="of the work"), progress("x", 3, "steps"), compiling():
            raise ValueError("of the work")
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]
    log = screen(False)
    with progress("x", 3, "steps") as bar:
        bar.advance(3)
    assert "compiling" not in log.getvalue()


def test_news_are_one_line_that_a_terminal_does_not_act_on(screen: Callable[[bool], Screen]) -> None:
    log = screen(False)
    say("units of \x1b[31mred\r\n[b]")
    assert log.getvalue() == "units of \\x1b[31mred\\r\\n[b]\n"


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By label, the total of each progress and by how much it advances."""
    found: dict[str, Any] = {}

    @contextmanager
    def record(label: str, total: int, unit: str, done: int = 0) -> Iterator[Any]:
        steps: list[int] = []
        found[label] = (total - done, steps)
        yield type("Steps", (), {"advance": staticmethod(lambda count=1: steps.append(count))})

    modules: list[ModuleType] = [capture_module, attribute_module, ablate_module, likelihood_module, measure_module]
    for one in modules:
        monkeypatch.setattr(one, "progress", record)
    return found


def test_long_work_advances_by_batch(
    llama: ModelDir, instruction_file: Path, tmp_path: Path, told: dict[str, Any]
) -> None:
    execution = ExecutionSettings(batch_tokens=128)
    instructions = sj.load_instructions(instruction_file)
    size = len(instructions.rows)
    run = capture_module.capture(llama, instructions, tmp_path / "run", CaptureSettings(), execution=execution)
    assert run.rows_per_write >= size  # one block
    (units,) = sj.select(run, sj.SelectSettings(selector="difference", size=3, half="all", control_length=False))
    attribute_module.attribute(llama, run, execution=execution)
    few = AblationSettings(draws=2, bootstraps=9, measured="all")
    ablate_module.ablate(llama, run, units, tmp_path / "out", few, execution)
    categories = len(run.categories)
    totals = {"capture": size, "attribute": size, "untouched model": size, "ablate": size * categories * 5}
    assert {label: told[label][0] for label in totals} == totals
    for total, steps in told.values():
        assert sum(steps) == total
        assert len(steps) > total / size  # more than one step for all texts
