"""Finds result directories and reads what the report shows of them; whatever is wrong is named with its file."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparcom_jax.analysis import compare, evaluate
from sparcom_jax.errors import InputError
from sparcom_jax.results.files import RESULTS_VERSION, SUMMARY

Number = int | float
Row = dict[str, Any]
"""A row of a table: text, numbers, and None where a value is not defined."""

COLUMNS: dict[str, dict[str, tuple[str, ...]]] = {
    "evaluate": {
        name: evaluate.TABLES[name] for name in ("overlap.csv", "uniqueness.csv", "combinations.csv", "depth.csv")
    },
    "compare": {name: columns for name, columns in compare.TABLES.items() if name != "instruction_overlap.csv"},
    "ablate": {
        "ablation.csv": ("target", "kind", "draw", "category_off", "category_measured", "units_off", "instructions",
                         "nll", "delta"),
        "baseline.csv": ("category", "instructions", "tokens", "nll"),
    },
}  # fmt: skip
"""By kind of results, in the order of the report: the tables that it shows, and their columns."""

OF_CATEGORY = frozenset({"category", "category_a", "category_b", "category_off", "category_measured"})
TEXT = OF_CATEGORY | {"group", "group_base", "group_tuned", "measure", "cells", "quantity", "model", "target", "kind",
                      "categories"}  # fmt: skip

NUMBER = (int, float, type(None))
NUMBERS = [NUMBER]
TABLE = [NUMBERS]
SET = {"name": str, "run": str, "digest": str}
SIDE = {"run": str, "model": {"family": str}, "set": SET, "groups": {"*": {"units": int, "layers": [int]}}}
SHAPES: dict[str, dict[str, Any]] = {
    "evaluate": {
        "run": str, "model": {"family": str}, "set": SET, "settings": dict, "categories": [str], "instructions": [int],
        "groups": {"*": {"units": int, "layers": [int], "mean_set_size": NUMBER, "spearman_size_token_count": NUMBER,
                         "general_units": int}},
    },
    "compare": {
        "base": SIDE, "tuned": SIDE, "settings": dict, "categories": [str], "capture_differences": {"*": list},
        "absent": {"*": str},
    },
    "ablate": {
        "run": str, "model": {"family": str}, "settings": dict, "categories": [str],
        "targets": {"*": {"units_off": [int], "delta": TABLE, "random_mean": TABLE, "random_low": TABLE,
                          "random_high": TABLE, "p_value": TABLE}},
    },
}  # fmt: skip
"""What a summary must hold: a type, the fields of an object (`*`: any), or a list of one shape."""
OF_THE_SET = ("schema_version", "groups", "run", "digest", "run_digest", "half", "set")
"""What is recorded of a set, or of units, beside how it was made; not shown."""


@dataclass(frozen=True)
class Result:
    """One result directory.

    Attributes:
      kind: `evaluate`, `compare` or `ablate`.
      name: its path below the directory that was searched.
      directory: where it lies.
      summary: its `summary.json`.
      tables: the rows of each table that the report shows, by file name.
    """

    kind: str
    name: str
    directory: Path
    summary: dict[str, Any]
    tables: dict[str, list[Row]]

    @property
    def sides(self) -> dict[str, dict[str, Any]]:
        """The parts of the summary that describe a model, its run and its sets, by role."""
        return (
            {role: self.summary[role] for role in ("base", "tuned")}
            if self.kind == "compare"
            else {"model": self.summary}
        )

    def path(self, table: str) -> str:
        """Where a table lies, relative to the directory that was searched."""
        return table if self.name == "." else f"{self.name}/{table}"

    def of_group(self, table: str, group: str) -> list[Row]:
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
    found = []
    for path in root.rglob(SUMMARY):
        summary = _read_json(path)
        if (kind := summary.get("kind")) in COLUMNS:
            if (version := summary.get("schema_version")) != RESULTS_VERSION:
                raise InputError(f"{path}: schema_version is {version!r}, this version reads {RESULTS_VERSION}; make "
                                 f"these results again")  # fmt: skip
            _require(summary, SHAPES[kind], str(path))
            if kind == "ablate":
                _require(summary, {"units": SET | {"selector": str}} if "units" in summary else {"set": SET}, str(path))
            _require_sizes(summary, path)
            found.append((list(COLUMNS).index(kind), path.parent.relative_to(root), summary))
    if not found:
        raise InputError(f"{root}: no results (no {SUMMARY} written by {', '.join(COLUMNS)} below it)")
    results = [_read(root, place, summary) for _, place, summary in sorted(found, key=lambda entry: entry[:2])]
    _require_one_version(results)
    return results


def made_of(side: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of the set, or of the units, that results were made of; `side` is one of `Result.sides`."""
    made: dict[str, Any] = side["units"] if "units" in side else side["set"]
    return made


def _require_one_version(results: list[Result]) -> None:
    """Refuses results of a set, or of units, beside results of what replaced it."""
    known: dict[tuple[str, str, str], tuple[str, Path]] = {}
    for result in results:
        for side in result.sides.values():
            made, kind = made_of(side), "units" if "units" in side else "set"
            digest, other = known.setdefault((kind, made["run"], made["name"]), (made["digest"], result.directory))
            if digest != made["digest"]:
                raise InputError(f"{other} and {result.directory}: made of two versions of {kind} {made['name']!r} of "
                                 f"{made['run']}; make the results of the earlier one again")  # fmt: skip


def _read(root: Path, place: Path, summary: dict[str, Any]) -> Result:
    directory, kind = root / place, summary["kind"]
    absent = summary["absent"] if kind == "compare" else {}
    tables = {
        name: _read_table(directory / name, columns, summary["categories"])
        for name, columns in COLUMNS[kind].items()
        if name not in absent
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


def _require(value: object, shape: Any, where: str) -> None:
    """Checks a value of a summary against a shape as in `SHAPES`."""
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            raise InputError(f"{where}: not an object")
        for key in value if "*" in shape else shape:
            if key not in value:
                raise InputError(f"{where}: no field {key!r}")
            _require(value[key], shape.get("*", shape.get(key)), f"{where}: {key}")
    elif isinstance(shape, list):
        if not isinstance(value, list):
            raise InputError(f"{where}: not a list")
        for entry in value:
            _require(entry, shape[0], where)
    elif not isinstance(value, shape) or value is True or value is False:
        raise InputError(f"{where}: {value!r} is of the wrong type")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: {value!r} is not a number")


def _require_sizes(summary: Mapping[str, Any], path: Path) -> None:
    """Checks that whatever has one entry per category has as many as there are."""
    size = len(summary["categories"])
    by_category = {"instructions": [summary["instructions"]]} if summary["kind"] == "evaluate" else {}
    for target, entry in summary["targets"].items() if summary["kind"] == "ablate" else ():
        for field, shape in SHAPES["ablate"]["targets"]["*"].items():
            by_category[f"targets: {target}: {field}"] = [entry[field], *(entry[field] if shape is TABLE else ())]
    for field, lists in by_category.items():
        if any(len(values) != size for values in lists):
            raise InputError(f"{path}: {field}: not of the size of the {size} categories")


def _read_table(path: Path, columns: tuple[str, ...], categories: list[str]) -> list[Row]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: not a CSV file in UTF-8 ({error})") from error
    header = lines[0] if lines else []
    if missing := [name for name in columns if name not in header]:
        raise InputError(f"{path}: no column {missing[0]!r}")
    rows = []
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise InputError(f"{path}: row {number}: {len(line)} values for {len(header)} columns")
        row = dict(zip(header, line, strict=True))
        rows.append({name: _value(row[name], name, categories, f"{path}: row {number}") for name in columns})
    return rows


def _value(text: str, column: str, categories: list[str], where: str) -> str | Number | None:
    if column in TEXT:
        if column in OF_CATEGORY and text not in categories:
            raise InputError(f"{where}: {column}: {text!r} is not a category of {SUMMARY}")
        return text
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{where}: {column}: {text!r} is not a number")
    return int(value) if text.lstrip("-").isdecimal() else value
