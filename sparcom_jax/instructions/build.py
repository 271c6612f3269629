"""Builds an instruction set from public corpora: balanced over categories, lengths and corpora, without duplicates.

Which rows are taken follows from the seed and the rows' own texts alone, not from the order or the place of the files.
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.instructions.card import LENGTH_BINS, MAX_OVERLAP, grams_of, length_bin
from sparcom_jax.instructions.checks import RULES, check_rows, words_of
from sparcom_jax.instructions.corpora import Record
from sparcom_jax.instructions.rows import load_hexainst
from sparcom_jax.instructions.sources import SourceFile, read_sources

CATEGORIES = tuple(RULES)


@dataclass(frozen=True)
class Built:
    """A set that was built.

    Attributes:
      rows: of the instruction file, category by category.
      files: what became of every file of the sources.
      notes: what the sources did not allow, and what was left out, one line each.
    """

    rows: list[Record]
    files: list[SourceFile]
    notes: list[str]


def build(directory: str | Path, per_category: int, seed: int, blend: bool) -> Built:
    """Samples rows of the six categories from the corpora below a directory.

    Args:
      directory: holds the corpora's native files.
      per_category: rows of each category that come from the corpora.
      seed: of the sample.
      blend: put as many rows of the shipped set before those of the corpora.

    Raises:
      InputError: a file is damaged, or a category has too few rows.
    """
    if per_category < 1:
        raise InputError(f"per_category {per_category}: must be at least 1")
    found, files = read_sources(directory)
    if not found:
        raise InputError(f"{directory}: no file of a known corpus")
    shipped = _shipped(per_category, seed) if blend else []
    chosen = _Chosen(shipped)
    notes: list[str] = []
    built: list[Record] = []
    for category in CATEGORIES:
        candidates = [row for row in found if row["category"] == category]
        picked, said = _sample(category, candidates, per_category, seed, chosen)
        notes += said
        rows = [row for row in shipped if row["category"] == category] + [
            {"id": f"{category.lower()}-h{number:03}", **row, "length_bin": length_bin(row["instruction"])}
            for number, row in enumerate(picked, 1)
        ]
        built += rows
    return Built(built, files, notes)


def write_rows(rows: list[Record], output: str | Path) -> None:
    """Writes an instruction file; it appears whole or not at all.

    Raises:
      InputError: the file exists.
    """
    output = Path(output).expanduser()
    if output.exists():
        raise InputError(f"{output}: exists already; choose another --output or delete it")
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f".{output.name}.partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    partial.replace(output)


class _Chosen:
    """The rows chosen so far; says whether another one repeats any of them."""

    def __init__(self, rows: Iterable[Record]) -> None:
        self._texts: set[str] = set()
        self._sizes: list[int] = []
        self._holders: defaultdict[tuple[str, ...], list[int]] = defaultdict(list)
        for row in rows:
            self.add(row)

    def add(self, row: Record) -> None:
        grams = grams_of(row["instruction"])
        for gram in grams:
            self._holders[gram].append(len(self._sizes))
        self._sizes.append(len(grams))
        self._texts.add(_plain(row))

    def repeats(self, row: Record) -> bool:
        if _plain(row) in self._texts:
            return True
        grams = grams_of(row["instruction"])
        shared = Counter(holder for gram in grams for holder in self._holders.get(gram, ()))
        return any(count > MAX_OVERLAP * (len(grams) + self._sizes[holder] - count) for holder, count in shared.items())


def _sample(
    category: str, candidates: list[Record], count: int, seed: int, chosen: _Chosen
) -> tuple[list[Record], list[str]]:
    """Takes turns between the corpora within each bin of length; what a bin lacks, the others give."""
    ordered = sorted(candidates, key=lambda row: _draw(seed, row))
    waiting: dict[str, dict[str, list[Record]]] = {name: {} for name in LENGTH_BINS}
    outside = 0
    for row in reversed(ordered):  # the next one is at the end of its list
        name = length_bin(row["instruction"])
        if name in waiting:
            waiting[name].setdefault(row["source"], []).append(row)
        else:
            outside += 1
    picked: dict[str, list[Record]] = {name: [] for name in LENGTH_BINS}
    left_out: Counter[str] = Counter()

    def take(name: str, wanted: int) -> None:
        while len(picked[name]) < wanted and waiting[name]:
            taken = Counter(row["source"] for row in picked[name])
            source = min(waiting[name], key=lambda one: (taken[one], one))
            row = waiting[name][source].pop()
            if not waiting[name][source]:
                del waiting[name][source]
            if chosen.repeats(row):
                left_out["repeat another row"] += 1
            elif check_rows([row | {"id": ""}], run_code=False):
                left_out["fail the checks of the category"] += 1
            else:
                picked[name].append(row)
                chosen.add(row)

    share = {name: count // 3 + (index < count % 3) for index, name in enumerate(LENGTH_BINS)}
    for name, wanted in share.items():
        take(name, wanted)
    for name in LENGTH_BINS:
        take(name, len(picked[name]) + count - sum(map(len, picked.values())))
    total = sum(map(len, picked.values()))
    if total < count:
        low, high = LENGTH_BINS["short"][0], LENGTH_BINS["long"][1]
        raise InputError(
            f"{category}: the sources give {total} rows of {low} to {high} words that are no duplicates, "
            f"{count} are needed ({len(candidates)} were read, {outside} are shorter or longer)"
        )
    notes = []
    if short := {name: wanted for name, wanted in share.items() if len(picked[name]) < wanted}:
        lacking = ", ".join(f"{len(picked[name])} {name} of {wanted}" for name, wanted in short.items())
        notes.append(f"{category}: lengths are not balanced, the sources have no more: {lacking}")
    if left_out:
        notes.append(f"{category}: left out " + ", ".join(f"{n} that {why}" for why, n in sorted(left_out.items())))
    return [row for name in LENGTH_BINS for row in picked[name]], notes


def _shipped(per_category: int, seed: int) -> list[Record]:
    """A sample of the shipped rows, as many of each bin of length as of the next."""
    rows = load_hexainst().rows
    sample: list[Record] = []
    for category in CATEGORIES:
        own = [row for row in rows if row["category"] == category]
        if per_category > len(own):
            raise InputError(f"per_category {per_category}: the shipped set has {len(own)} rows of {category} to blend")
        bins = [
            sorted((row for row in own if row["length_bin"] == name), key=lambda row: _draw(seed, row))
            for name in LENGTH_BINS
        ]
        turns = [row for turn in range(len(own)) for one in bins for row in one[turn : turn + 1]]
        sample += sorted(turns[:per_category], key=lambda row: row["id"])
    return sample


def _draw(seed: int, row: dict[str, Any]) -> tuple[str, str]:
    key = hashlib.sha256(f"{seed} {row['source']} {row['instruction']}".encode()).hexdigest()
    return key, row.get("origin", "")


def _plain(row: Record) -> str:
    return " ".join(words_of(row["instruction"]))
