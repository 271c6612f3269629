"""Instruction files: the shipped set, and every fault named by file, line and field."""

from collections import Counter
from pathlib import Path

import pytest

import sparcom_jax as sj
from sparcom_jax.errors import InputError

GOOD = b'{"id": "a", "category": "X", "instruction": "Do it.", "response": null}\n'


def test_the_shipped_set() -> None:
    hexainst = sj.load_hexainst()
    assert hexainst.categories == ["CLS", "CODE", "QA", "GEN", "MATH", "SUM"]
    assert min(Counter(row["category"] for row in hexainst.rows).values()) >= 20
    assert all(row["response"] for row in hexainst.rows)
    for row in hexainst.rows:
        words = len(row["instruction"].split())
        low, high = {"short": (10, 29), "medium": (30, 79), "long": (80, 200)}[row["length_bin"]]
        assert low <= words <= high, row["id"]
        if row["category"] == "CLS":
            assert row["response"].lower() in row["instruction"].lower(), row["id"]


@pytest.mark.parametrize(("content", "message"), [
    (b"", "no instructions"),
    (GOOD + b"{oops\n", ":2: not JSON"),
    (GOOD + b"[1]\n", ":2: not a JSON object"),
    (GOOD + b"\n" + GOOD, ":2: empty line"),
    (GOOD + GOOD, r":2: id 'a' is already on line 1"),
    (GOOD.replace(b'"Do it."', b'"  "'), ":1: field 'instruction' must be a non-empty string"),
    (GOOD.replace(b'"X"', b"3"), ":1: field 'category' must be a non-empty string"),
    (GOOD.replace(b'"id"', b'"name"'), ":1: field 'id' must be a non-empty string"),
    (GOOD.replace(b"null", b"[]"), ":1: field 'response' must be a string or null"),
    (GOOD.replace(b"Do", b"D\xff"), ":1: not JSON"),
])  # fmt: skip
def test_faults(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        sj.load_instructions(path)
    assert str(path) in str(error.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.jsonl: cannot be read"):
        sj.load_instructions(tmp_path / "nowhere.jsonl")


def test_the_last_newline_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD + GOOD.replace(b'"a"', b'"b"').rstrip())
    assert [row["id"] for row in sj.load_instructions(tmp_path / "rows.jsonl").rows] == ["a", "b"]
