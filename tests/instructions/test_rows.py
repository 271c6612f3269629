"""Instruction files: the shipped set, and every fault named by file, line and field."""

from collections import Counter
from pathlib import Path

import pytest

import sparcom_jax as sj
from sparcom_jax.errors import InputError

GOOD = b'{"id": "a", "category": "X", "instruction": "Do it.", "response": null}\n'


def with_field(value: bytes) -> bytes:
    """Two rows, the second of which has one more field."""
    return GOOD + GOOD.replace(b'"a"', b'"b"').replace(b"}", b', "more": ' + value + b"}")


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


def test_a_part_of_the_shipped_set_is_balanced_and_evenly_spaced() -> None:
    whole, part = sj.load_hexainst(), sj.load_instructions("hexainst:50")
    assert part.source == "hexainst:50"
    assert part.categories == whole.categories
    assert Counter(row["category"] for row in part.rows) == dict.fromkeys(whole.categories, 50)
    names = [row["id"] for row in whole.rows if row["category"] == "MATH"]
    assert [row["id"] for row in part.rows if row["category"] == "MATH"] == names[:: len(names) // 50]
    order = [row["id"] for row in whole.rows]
    assert [order.index(row["id"]) for row in part.rows] == sorted(order.index(row["id"]) for row in part.rows)
    assert sj.load_instructions("hexainst:200").rows == whole.rows
    with pytest.raises(InputError, match="hexainst:201: CLS has 200 rows"):
        sj.load_instructions("hexainst:201")
    with pytest.raises(InputError, match="hexainst:0: cannot be read"):
        sj.load_instructions("hexainst:0")


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
    (GOOD.replace(b"Do", b"D\xff"), ":1: not JSON: 'utf-8' codec can't decode byte 0xff"),
    (GOOD.replace(b"Do", b"D\xed\xa0\x80"), ":1: not JSON: 'utf-8' codec can't decode byte 0xed"),
    (GOOD.replace(b"Do", b"D\0"), ":1: not JSON: Invalid control character"),
    (GOOD.replace(b"Do", b"\\ud800"), ":1: field 'instruction' holds half of a surrogate pair"),
    (GOOD.replace(b'"a"', b'"\\uDFFF"'), ":1: field 'id' holds half of a surrogate pair"),
    (GOOD.replace(b'"X"', b'"\\ude00\\ud83d"'), ":1: field 'category' holds half of a surrogate pair"),
    (GOOD.replace(b"null", b'"\\ud83d "'), ":1: field 'response' holds half of a surrogate pair"),
    (with_field(b'"\\ud800"'), ":2: field 'more' holds half of a surrogate pair"),
    (with_field(b'{"a": [0, {"b": "\\ud800"}]}'), r":2: field 'more.a\[1\].b' holds half of a surrogate pair"),
    (with_field(b'{"\\ud800": 1}'), r":2: field 'more.\\ud800' holds half of a surrogate pair"),
    (with_field(b"[NaN]"), r":2: field 'more\[0\]' must be a finite number, not nan"),
    (with_field(b"-Infinity"), ":2: field 'more' must be a finite number, not -inf"),
    (with_field(b"1e999"), ":2: field 'more' must be a finite number, not inf"),
    (with_field(b"1" * 5000), ":2: not JSON: Exceeds the limit"),
    (with_field(b"[" * 101 + b"]" * 101), ":2: field 'more' is nested more than 100 deep"),
    (with_field(b"[" * 100_000), ":2: not JSON: maximum recursion depth exceeded"),
    (with_field(b'1, "id": "c"'), ":2: field 'id' is given twice"),
    (with_field(b'{"a": {"b": 1, "b": 1}}'), ":2: field 'b' is given twice"),
    (GOOD.decode().encode("utf-16"), ":1: not JSON: 'utf-8' codec can't decode"),
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


def test_what_other_systems_write_is_read_right(tmp_path: Path) -> None:
    """A byte order mark, lines that end with CR and LF, escaped pairs of surrogates, NUL, integers of any size."""
    path = tmp_path / "rows.jsonl"
    fields = b'"more": [12345678901234567890123, 1e300, "\\u0000"]'
    path.write_bytes(
        b"\xef\xbb\xbf"
        + GOOD.replace(b"Do", b"\\ud83d\\ude00 \\u0000Do").replace(b"\n", b"\r\n")
        + b'{"id": "b", "category": "X", "instruction": "\xf0\x9f\x98\x80", '
        + fields
        + b"}\r\n"
    )
    first, second = sj.load_instructions(path).rows
    assert (first["id"], first["instruction"]) == ("a", "\U0001f600 \0Do it.")
    assert (second["instruction"], second["more"]) == ("\U0001f600", [12345678901234567890123, 1e300, "\0"])


def test_the_last_newline_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(GOOD + GOOD.replace(b'"a"', b'"b"').rstrip())
    assert [row["id"] for row in sj.load_instructions(tmp_path / "rows.jsonl").rows] == ["a", "b"]
