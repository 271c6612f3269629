"""Progress of long work: a bar with rate and time left on a terminal, plain lines in a log."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

from tqdm import tqdm

LOG_EVERY_SECONDS = 10.0


@runtime_checkable
class Progress(Protocol):
    """Where long work reports how far it is."""

    def advance(self, count: int = 1) -> None:
        """Records that `count` more units of work are done."""


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar

    def advance(self, count: int = 1) -> None:
        self._bar.update(count)


class _Lines:
    def __init__(self, label: str, total: int, unit: str, done: int) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start_count = self._done = done
        self._start = self._last = time.monotonic()

    def advance(self, count: int = 1) -> None:
        self._done += count
        now = time.monotonic()
        if self._done >= self._total or now - self._last >= LOG_EVERY_SECONDS:
            self._last = now
            rate = (self._done - self._start_count) / max(now - self._start, 1e-9)
            left = (self._total - self._done) / rate if rate else float("inf")
            say(f"{self._label}: {self._done}/{self._total} {self._unit}, {rate:.1f} {self._unit}/s, {left:.0f} s left")


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
            yield _Bar(bar)
    else:
        yield _Lines(label, total, unit, done)


def say(message: str) -> None:
    """Writes one line of news, without tearing a progress bar apart."""
    tqdm.write(message, file=sys.stderr)
    sys.stderr.flush()
