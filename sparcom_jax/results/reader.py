"""Finds result directories and reads what the report shows of them; whatever is wrong is named with its file."""

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.results.columns import Column, Table
from sparcom_jax.results.numbers import Number as Number
from sparcom_jax.results.summary import RESULTS_VERSION, SUMMARY, fault, kind_made_of, made_of
from sparcom_jax.results.tables import TABLES

Row = dict[str, Any]
"""A row of a table: text, numbers, and None where a value is not defined."""


@dataclass(frozen=True)
class Result:
    """One result directory.

    Attributes:
      kind: which analysis made it, a key of `TABLES`.
      name: its path below the directory that was searched.
      directory: where it lies.
      summary: its `summary.json`.
      tables: the rows of each table that the report shows.
    """

    kind: str
    name: str
    directory: Path
    summary: dict[str, Any]
    tables: dict[Table, list[Row]]

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        """The parts of the summary that describe a model, its run and its sets, by role."""
        summary = self.summary
        return {role: summary[role] for role in ("base", "tuned")} if self.kind == "compare" else {"model": summary}

    @property
    def key(self) -> str:
        """What tells it from all other results of the directory."""
        return f"{self.kind}:{self.name}"

    @property
    def parameters(self) -> int:
        """Parameters of its model, of its larger one; 0 where they were not recorded."""
        return max(side["model"].get("parameters") or 0 for side in self.sides.values())

    def path(self, table: Table) -> str:
        """Where a table lies, relative to the directory that was searched."""
        return table.name if self.name == "." else f"{self.name}/{table.name}"

    def of_group(self, table: Table, group: str) -> list[Row]:
        """The rows of a table for one group of units."""
        return [row for row in self.tables[table] if row["group"] == group]


def find_results(root: Path) -> list[Result]:
    """Reads all results below a directory.

    Args:
      root: searched recursively for `summary.json` of a known kind; others are left alone.

    Returns:
      The results, ordered by kind and then by path.

    Raises:
      InputError: there are none, a summary or a table is missing, malformed or of another schema, or some were made
        of another version of a set than others.
    """
    if not root.is_dir():
        raise InputError(f"{root}: no such directory")
    found = find_summaries(root)
    for place, summary in found:
        if wrong := unreadable(summary):
            raise InputError(f"{root / place / SUMMARY}: {wrong}")
    if not found:
        raise InputError(f"{root}: no results (no {SUMMARY} written by {', '.join(TABLES)} below it)")
    results = [_read(root, place, summary, [table for table in TABLES[summary["kind"]] if table.shown])
               for place, summary in found]  # fmt: skip
    _require_one_version(results)
    return results


def read_result(directory: Path, tables: Sequence[Table]) -> Result:
    """Reads one result directory.

    Args:
      directory: where it lies; it is its own name, too.
      tables: those that are read, of the ones that it has.

    Raises:
      InputError: there is no summary of a known kind, or it or a table is malformed or of another schema.
    """
    summary = _read_json(directory / SUMMARY)
    if summary.get("kind") not in TABLES:
        raise InputError(f"{directory / SUMMARY}: field kind is {summary.get('kind')!r}, none of {', '.join(TABLES)}")
    if wrong := unreadable(summary):
        raise InputError(f"{directory / SUMMARY}: {wrong}")
    return _read(directory, Path(), summary, [table for table in tables if table in TABLES[summary["kind"]]])


def find_summaries(root: Path) -> list[tuple[Path, dict[str, Any]]]:
    """The summaries below a directory, of whatever version, with the directories that they are of, relative to it.

    Args:
      root: searched recursively for `summary.json` of a known kind; others are left alone.

    Returns:
      They are ordered by kind and then by path.

    Raises:
      InputError: a summary cannot be read.
    """
    found = [(path.parent.relative_to(root), _read_json(path)) for path in root.rglob(SUMMARY)]
    known = [(place, summary) for place, summary in found if summary.get("kind") in TABLES]
    return sorted(known, key=lambda entry: (list(TABLES).index(entry[1]["kind"]), entry[0]))


def unreadable(summary: dict[str, Any]) -> str | None:
    """Why a summary of a known kind cannot be read, for a message; None where it can."""
    if (version := summary.get("schema_version")) != RESULTS_VERSION:
        return f"schema_version is {version!r}, this version reads {RESULTS_VERSION}; make these results again"
    return fault(summary)


def _require_one_version(results: list[Result]) -> None:
    """Refuses results of a set, or of units, beside results of what replaced it."""
    known: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for result in results:
        for side in result.sides.values():
            made, kind = made_of(side), kind_made_of(side)
            digest, other = known.setdefault((kind, made["run"], made["name"]), (made["digest"], result.directory))
            if digest != made["digest"]:
                raise InputError(f"{other} and {result.directory}: made of two versions of {kind} {made['name']!r} of "
                                 f"{made['run']}; make the results of the earlier one again")  # fmt: skip


def _read(root: Path, place: Path, summary: dict[str, Any], wanted: Sequence[Table]) -> Result:
    directory, kind = root / place, summary["kind"]
    absent = summary["absent"] if kind == "compare" else {}
    tables = {
        table: _read_table(directory, table, summary["categories"]) for table in wanted if table.name not in absent
    }
    return Result(kind, place.as_posix(), directory, summary, tables)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: not a JSON object")
    return content


def _read_table(directory: Path, table: Table, categories: list[str]) -> list[Row]:
    path = directory / table.name
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    header = lines[0] if lines else []
    if missing := [name for name in table.names if name not in header]:
        raise InputError(f"{path}: no column {missing[0]!r}")
    rows = []
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number}: {len(line)} values for {len(header)} columns")
        row = dict(zip(header, line, strict=True))
        where = f"{path}: row {number}"
        rows.append({one.name: _value(row[one.name], one, categories, where) for one in table.columns})
    return rows


def _value(text: str, column: Column, categories: list[str], where: str) -> str | Number | None:
    if column.holds == "category" and text not in categories:
        raise InputError(f"{where}: {column.name}: {text!r} is not a category of {SUMMARY}")
    if column.holds != "number":
        return text
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {column.name}: {text!r} is not a number")
    return int(value) if text.lstrip("-").isdecimal() else value
