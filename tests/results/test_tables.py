"""The tables against their documentation, word by word."""

import re
from pathlib import Path

import pytest

from sparcom_jax.results.tables import OVERLAP, TABLES

DOCUMENTATION = Path(__file__).parents[2] / "docs/tables.md"


@pytest.mark.parametrize("kind", TABLES)
def test_the_columns_are_those_of_the_documentation(kind: str) -> None:
    part = re.search(rf"^# {kind}$(.*?)(?=^# |\Z)", DOCUMENTATION.read_text(), re.MULTILINE | re.DOTALL)
    assert part is not None
    _, *sections = re.split(r"^## (\S+)$", part[1], flags=re.MULTILINE)
    documented = {
        name: re.findall(r"^- `(\w+)`: (.*)\.$", body, re.MULTILINE)
        for name, body in zip(sections[::2], sections[1::2], strict=True)
    }
    assert documented == {table.name: [(one.name, one.meaning) for one in table.columns] for table in TABLES[kind]}
    assert sum(line.startswith("- ") for line in part[1].splitlines()) == sum(map(len, documented.values()))


def test_names_are_given_once() -> None:
    tables = [table for of_kind in TABLES.values() for table in of_kind]
    assert len({table.name for table in tables}) == len(tables)
    assert all(len(set(table.names)) == len(table.columns) for table in tables)


def test_a_record_has_a_value_for_every_column() -> None:
    row = range(len(OVERLAP.columns))
    assert OVERLAP.record(row) == {column.name: at for at, column in enumerate(OVERLAP.columns)}
    with pytest.raises(ValueError, match="shorter"):
        OVERLAP.record(row[1:])
