"""Result directories: tidy CSV tables, and a summary that is written last and whole."""

import csv
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.errors import InputError
from sparcom_jax.results.columns import Table
from sparcom_jax.results.summary import RESULTS_VERSION, SUMMARY, fault
from sparcom_jax.results.tables import TABLES


def start_results(output: Path, kind: str) -> None:
    """Makes a result directory ready: what an earlier analysis of the same kind left there is removed.

    Args:
      output: the directory.
      kind: which analysis writes there; it becomes `kind` of the summary.

    Raises:
      InputError: `output` cannot be a directory, or holds the results of another kind of analysis.
    """
    summary = output / SUMMARY
    try:
        output.mkdir(parents=True, exist_ok=True)
        if summary.exists():
            other = _kind(summary)
            if other != kind:
                raise InputError(f"{summary}: holds results of kind {other!r}, not {kind!r}; name another --output")
        for name in (SUMMARY, *(table.name for table in TABLES[kind])):
            (output / name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{output}: cannot hold results ({error.strerror})") from error


def write_table(output: Path, table: Table, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table as a CSV file: floats with 9 digits, nothing where a value is undefined.

    Args:
      output: the directory.
      table: which one.
      rows: one sequence per row, in the order of the columns.

    Raises:
      InputError: it cannot be written.
      ValueError: a row does not have as many values as there are columns.
    """
    path = output / table.name
    with _writable(path), path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(table.names)
        for row in rows:
            if len(row) != len(table.columns):
                raise ValueError(f"{table.name}: a row of {len(row)} values for {len(table.columns)} columns")
            writer.writerow([_cell(value) for value in row])


def write_summary(output: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Writes `summary.json` as the last file of a result directory: there is a whole one or none.

    Args:
      output: the directory.
      summary: what to write beside `schema_version`; NumPy arrays become lists, undefined numbers null.

    Returns:
      The summary as it was written.

    Raises:
      InputError: it cannot be written.
      ValueError: it is not of the shape that summaries of its kind have.
    """
    plain: dict[str, Any] = _plain({"schema_version": RESULTS_VERSION, **summary})
    if found := fault(plain):
        raise ValueError(f"{SUMMARY}: {found}")
    unfinished = output / f"{SUMMARY}.unfinished"
    with _writable(output / SUMMARY):
        unfinished.write_text(json.dumps(plain, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        unfinished.replace(output / SUMMARY)
    return plain


@contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error})") from error


def _kind(summary: Path) -> object:
    try:
        content = json.loads(summary.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return content.get("kind") if isinstance(content, dict) else None


def _cell(value: object) -> object:
    if isinstance(value, float | np.floating):
        return f"{value:.9g}" if math.isfinite(value) else ""
    return value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
