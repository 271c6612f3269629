"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log.

While a step is being compiled nothing can advance; then both say so, and for how long.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

from sparcom_jax.printable import printable

LOG_EVERY_SECONDS = 10.0
TICK_SECONDS = 0.5
"""How often a bar on a terminal is drawn again where nothing advances."""

_begun: list[float] = []
"""When each of the steps was begun that are being compiled now."""
_of_begun = threading.Lock()


@runtime_checkable
class Progress(Protocol):
    """Where long work reports how far it is."""

    def advance(self, count: int = 1) -> None:
        """Records that `count` more units of work are done."""


@contextmanager
def compiling() -> Iterator[None]:
    """Lets whatever progress is shown say that a step is being compiled, until the block ends; from any thread."""
    now = time.monotonic()
    with _of_begun:
        _begun.append(now)
    try:
        yield
    finally:
        with _of_begun:
            _begun.remove(now)


def _compilation() -> str:
    """What is said of the step that has been compiled for the longest time; empty where none is."""
    with _of_begun:
        return f", compiling for {time.monotonic() - min(_begun):.0f} s" if _begun else ""


class _Bar:
    def __init__(self, label: str, bar: Any) -> None:
        self._label, self._bar = label, bar

    def advance(self, count: int = 1) -> None:
        self._describe(refresh=False)
        self._bar.update(count)

    def tick(self) -> None:
        self._describe(refresh=True)

    def _describe(self, *, refresh: bool) -> None:
        # At the left, because a narrow terminal cuts a bar off at the right.
        self._bar.set_description(f"{self._label}{_compilation()}", refresh=refresh)


class _Lines:
    def __init__(self, label: str, total: int, unit: str, done: int) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start_count = self._done = done
        self._start = self._last = time.monotonic()
        self._lock = threading.Lock()

    def advance(self, count: int = 1) -> None:
        with self._lock:
            self._done += count
            if self._done >= self._total or self._is_due():
                self._say()

    def tick(self) -> None:
        with self._lock:
            if _begun and self._is_due():
                self._say()

    def _is_due(self) -> bool:
        return time.monotonic() - self._last >= LOG_EVERY_SECONDS

    def _say(self) -> None:
        self._last = time.monotonic()
        line = f"{self._label}: {self._done}/{self._total} {self._unit}"
        if made := self._done - self._start_count:
            rate = made / max(self._last - self._start, 1e-9)
            line += f", {rate:.1f} {self._unit}/s, {(self._total - self._done) / rate:.0f} s left"
        say(f"{line}{_compilation()}")


@contextmanager
def progress(label: str, total: int, unit: str, done: int = 0) -> Iterator[Progress]:
    """Shows the progress of a loop.

    Args:
      label: what is being done.
      total: how many units of work there are.
      unit: what a unit is called, in the plural.
      done: how many were finished before (a resumed run).

    Yields:
      An object whose `advance(count)` is called as the work goes on.
    """
    if sys.stderr.isatty():
        with tqdm(desc=label, total=total, initial=done, unit=f" {unit}", dynamic_ncols=True) as bar:
            shown = _Bar(label, bar)
            with _ticking(shown):
                yield shown
            shown.tick()
    else:
        lines = _Lines(label, total, unit, done)
        with _ticking(lines):
            yield lines


@contextmanager
def _ticking(shown: _Bar | _Lines) -> Iterator[None]:
    """Calls `tick` again and again, from a thread of its own, until the block ends."""
    ended = threading.Event()

    def tick() -> None:
        while not ended.wait(TICK_SECONDS):
            shown.tick()

    thread = threading.Thread(target=tick, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def say(message: str) -> None:
    """Writes one line of news, without tearing a progress bar apart."""
    tqdm.write(printable(message), file=sys.stderr)
    sys.stderr.flush()
