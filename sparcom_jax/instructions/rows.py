"""Instruction files: JSONL, one object a line, validated whole before anything runs."""

import hashlib
import json
import re
import sys
from collections import Counter
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from sparcom_jax.display import Display, counts
from sparcom_jax.errors import InputError
from sparcom_jax.strict_json import loads, require_plain

HEXAINST = "hexainst"
PART = re.compile(rf"{HEXAINST}:([1-9][0-9]*)")
"""So many rows of each category of it."""
MAX_CATEGORIES = 256


@dataclass(frozen=True)
class InstructionSet:
    """The rows of an instruction file, in file order.

    Attributes:
      source: the file, or `hexainst`.
      rows: the objects; each has at least `id`, `category`, `instruction`.
      categories: the categories in the order in which they first occur.
    """

    source: str
    rows: list[dict[str, Any]]
    categories: list[str]

    def __repr__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> Display:
        sizes = Counter(row["category"] for row in self.rows)
        answered = sum(row.get("response") is not None for row in self.rows)
        by_category = counts(self.categories, [sizes[name] for name in self.categories])
        return Display(f"InstructionSet {self.source}", [
            ("instructions", f"{len(self.rows):,} ({by_category})"),
            ("responses", f"{answered:,}"),
        ])  # fmt: skip

    @property
    def digest(self) -> str:
        """Digest of all rows, as one JSON list with sorted keys."""
        digest = hashlib.sha256(b"[")
        for index, row in enumerate(self.rows):
            digest.update(f"{', ' if index else ''}{json.dumps(row, sort_keys=True)}".encode())
        digest.update(b"]")
        return digest.hexdigest()

    def category_index(self) -> list[int]:
        """Index of each row's category."""
        return [self.categories.index(row["category"]) for row in self.rows]


def load_instructions(source: str | Path) -> InstructionSet:
    """Reads an instruction file.

    Args:
      source: path of a JSONL file, or `hexainst` for the set that ships with the package; `hexainst:50` takes 50 rows
        of each of its categories, evenly spaced, in their order.

    Raises:
      InputError: the file is missing, a row is at fault, or a category has fewer rows; the message names file, line
        and field.
    """
    if part := PART.fullmatch(str(source)):
        return _part(load_instructions(HEXAINST), int(part[1]))
    shipped = resources.files("sparcom_jax.instructions").joinpath("hexainst.jsonl")
    file = shipped if str(source) == HEXAINST else Path(source).expanduser()
    rows: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    try:
        with file.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                row = _parse(line, f"{source}:{number}")
                if row["id"] in seen:
                    raise InputError(f"{source}:{number}: id {row['id']!r} is already on line {seen[row['id']]}")
                seen[row["id"]] = number
                rows.append(row)
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}") from error
    if not rows:
        raise InputError(f"{source}: no instructions")
    categories = list(dict.fromkeys(row["category"] for row in rows))
    if len(categories) > MAX_CATEGORIES:
        raise InputError(f"{source}: {len(categories)} categories, at most {MAX_CATEGORIES} can be stored")
    return InstructionSet(str(source), rows, categories)


def as_instructions(instructions: InstructionSet | str | Path) -> InstructionSet:
    """Instructions, which are read where they are given by their file, or as `hexainst`.

    Raises:
      InputError: as `load_instructions`.
    """
    return instructions if isinstance(instructions, InstructionSet) else load_instructions(instructions)


def load_hexainst() -> InstructionSet:
    """The instructions that ship with the package: CLS, CODE, QA, GEN, MATH, SUM."""
    return load_instructions(HEXAINST)


def _part(whole: InstructionSet, per_category: int) -> InstructionSet:
    """So many rows of each category, evenly spaced, in the order of the file."""
    source, kept = f"{whole.source}:{per_category}", []
    for category in whole.categories:
        of = [at for at, row in enumerate(whole.rows) if row["category"] == category]
        if len(of) < per_category:
            raise InputError(f"{source}: {category} has {len(of)} rows")
        kept += [of[place * len(of) // per_category] for place in range(per_category)]
    return InstructionSet(source, [whole.rows[at] for at in sorted(kept)], whole.categories)


def _parse(line: bytes, where: str) -> dict[str, Any]:
    if not line.strip():
        raise InputError(f"{where}: empty line")
    row = loads(line, where)
    if not isinstance(row, dict):
        raise InputError(f"{where}: not a JSON object")
    require_plain(row, where)
    for field in ("id", "category", "instruction"):
        if not isinstance(row.get(field), str) or not row[field].strip():
            raise InputError(f"{where}: field {field!r} must be a non-empty string")
    if not isinstance(row.get("response"), str | None):
        raise InputError(f"{where}: field 'response' must be a string or null")
    row["category"] = sys.intern(row["category"])
    return row
