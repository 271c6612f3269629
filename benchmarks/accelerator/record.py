"""What a part found: figures, each with its unit, spread and goal, written down one by one as they come."""

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

AT_MOST, AT_LEAST = "at most", "at least"
MOST_CHARACTERS = 500
"""Of an error; compilers write whole programs into theirs."""


@dataclass(frozen=True)
class Figure:
    """One thing that was measured.

    Attributes:
      part: which part found it.
      name: what it is.
      value: of several measurements the median.
      unit: of the value.
      low: smallest measurement, in the same unit; None where there was one only.
      high: largest measurement.
      goal: what the value is to be compared with; None where it is only measured.
      bound: whether the goal is an upper bound (`AT_MOST`) or a lower one (`AT_LEAST`).
      strict: whether the goal decides whether the part has failed: a wrong number does, a slow one does not.
    """

    part: str
    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    goal: float | None = None
    bound: str = AT_MOST
    strict: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without one."""
        if self.goal is None:
            return None
        return self.value <= self.goal if self.bound == AT_MOST else self.value >= self.goal


def add_line(lines: Path, kind: str, **content: Any) -> None:
    """Adds a line to what was found."""
    with lines.open("a") as file:
        file.write(json.dumps({"kind": kind, **content}) + "\n")


def read_lines(lines: Path) -> list[dict[str, Any]]:
    """All that was found; the last line may still be in the making."""
    return [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]


class Record:
    """Takes down what a part finds, a line of JSON each, so that a part that is ended has said what it knew."""

    def __init__(self, part: str, file: Path, until: float) -> None:
        """Begins.

        Args:
          part: its name.
          file: to which lines are added.
          until: when the part should be done, on the clock of `time.time()`.
        """
        self.part = part
        self._file = file
        self._until = until

    @property
    def seconds_left(self) -> float:
        """Until the part should be done."""
        return self._until - time.time()

    def known(self, part: str, name: str) -> float | None:
        """A figure that another part took down before; None where it did not."""
        for one in read_lines(self._file):
            if (one["kind"], one["part"], one.get("name")) == ("figure", part, name):
                return float(one["value"])
        return None

    def figure(
        self,
        name: str,
        value: float,
        unit: str,
        *,
        spread: Sequence[float] = (),
        goal: float | None = None,
        bound: str = AT_MOST,
        strict: bool = False,
    ) -> None:
        """Takes down a figure; `spread` are the measurements that the value sums up."""
        low, high = (float(min(spread)), float(max(spread))) if len(spread) > 1 else (None, None)
        one = Figure(self.part, name, float(value), unit, low, high, goal, bound, strict)
        self._add("figure", asdict(one))

    def fact(self, name: str, value: str) -> None:
        """Takes down what is no number: a version, a choice that was made."""
        self._add("fact", {"part": self.part, "name": name, "value": value})

    def failure(self, what: str, why: str) -> None:
        """Takes down what did not work."""
        self._add("failure", {"part": self.part, "name": what, "value": why})

    def skipped(self, what: str, why: str) -> None:
        """Takes down what was not tried."""
        self._add("skipped", {"part": self.part, "name": what, "value": why})

    def attempt(self, what: str, job: Callable[[], Any], needs_seconds: float = 0.0, optional: bool = False) -> Any:
        """Does a job whose failure is no reason to leave the others undone.

        Args:
          what: its name.
          job: the job.
          needs_seconds: what it may take; where less is left, it is skipped.
          optional: it is no fault where it does not work, or is not done: a kernel that this device may not have.

        Returns:
          What the job returned; None where it failed or was skipped.
        """
        if self.seconds_left < needs_seconds:
            why = f"{max(self.seconds_left, 0.0):.0f} s were left"
            self._add("optional" if optional else "skipped", {"part": self.part, "name": what, "value": why})
            return None
        try:
            return job()
        except Exception as error:
            why = " ".join(f"{type(error).__name__}: {error}".split())[:MOST_CHARACTERS]
            self._add("optional" if optional else "failure", {"part": self.part, "name": what, "value": why})
            return None

    def _add(self, kind: str, content: dict[str, Any]) -> None:
        add_line(self._file, kind, **content)
        # A part's own standard output is free for what libraries print; the parent shows what was found at the end.
        print(f"  {content['part']}: {content['name']}: {content['value']} {content.get('unit', '')}",
              file=sys.stderr, flush=True)  # fmt: skip


def median_of(job: Callable[[], Any], rounds: int, warm_up: int = 1) -> list[float]:
    """Seconds of each of several rounds of a job, which is to wait for the device itself.

    Returns:
      One number a round, rising; their median is what a figure reports.
    """
    for _ in range(warm_up):
        job()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        job()
        seconds.append(time.perf_counter() - start)
    return sorted(seconds)
