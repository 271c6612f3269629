"""Benchmarks: programs that print plain tables, run as `python -m benchmarks.NAME` from the repository's root."""

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def workspace(parent: Path | None) -> Iterator[Path]:
    """A directory for everything that a benchmark writes, deleted at the end.

    Args:
      parent: where it is made; None takes the system's place for temporary files.
    """
    if parent:
        parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="sparcom-", dir=parent) as directory:
        yield Path(directory)


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that a job took, and what it returned."""
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Prints rows below their columns, the first column to the left and the others to the right."""
    cells = [list(columns), *([str(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    for row in cells:
        first, *others = row
        print("  ".join([first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(others, widths[1:], strict=True))]))
    print(flush=True)
