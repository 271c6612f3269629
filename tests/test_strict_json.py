"""JSON that Python's reader takes and that means two things, or nothing."""

from dataclasses import dataclass
from typing import Any

import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.strict_json import loads, typed


def test_what_it_reads() -> None:
    content = '{"a": [1, {"b": null}], "ä": "\\u00e9"}'
    expected = {"a": [1, {"b": None}], "ä": "é"}
    assert loads(content, "f") == expected
    assert loads(content.encode(), "f") == expected
    assert loads(b"\xef\xbb\xbf" + content.encode() + b"\r\n", "f") == expected


@pytest.mark.parametrize(("text", "message"), [
    ('{"a": 1, "b": 2, "a": 1}', "f:3: field 'a' is given twice"),
    ('{"x": [{"deep": {"b": 2, "b": 3}}]}', "f:3: field 'b' is given twice"),
    ('{"a": 1, "\\u0061": 2}', "f:3: field 'a' is given twice"),
    ('{"a": ', "f:3: not JSON: Expecting value"),
    ('{"a": "\0"}', "f:3: not JSON: Invalid control character"),
    (b'{"a": "\xff"}', "f:3: not JSON: 'utf-8' codec can't decode byte 0xff"),
    (b'{"a": "\xed\xa0\x80"}', "f:3: not JSON: 'utf-8' codec can't decode byte 0xed"),  # a surrogate
    ('{"a": 1}'.encode("utf-16"), "f:3: not JSON: 'utf-8' codec can't decode byte"),
    ("[" * 200_000, "f:3: not JSON: maximum recursion depth"),
    ("1" * 10_000, "f:3: not JSON: Exceeds the limit"),
])  # fmt: skip
def test_one_line_of_what_is_wrong(text: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as error:
        loads(text, "f:3")
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@dataclass(frozen=True)
class Inner:
    share: float
    more: Any = None


@dataclass(frozen=True)
class Outer:
    names: list[str]
    inner: dict[str, Inner]
    count: int | None


def test_a_declared_type_is_read() -> None:
    value = {"names": ["a"], "inner": {"x": {"share": 1, "more": [None]}, "y": {"share": 0.5}}, "count": None, "z": 0}
    read = typed(Outer, value, "f")
    assert read == Outer(["a"], {"x": Inner(1.0, [None]), "y": Inner(0.5)}, None)
    assert type(read.inner["x"].share) is float
    assert typed(Outer, value | {"count": 3}, "f").count == 3
    made = {"x": read.inner["x"]}
    assert typed(Outer, value | {"inner": made}, "f").inner == made


@pytest.mark.parametrize(("change", "message"), [
    ({"count": "3"}, "field 'count' must be of type int, not '3'"),
    ({"count": True}, "field 'count' must be of type int, not True"),
    ({"names": ["a", 1]}, "field 'names[1]' must be of type str, not 1"),
    ({"inner": {"x": {}}}, "no field 'inner.x.share'"),
    ({"inner": {"x": {"share": None}}}, "field 'inner.x.share' must be of type float, not None"),
    ({"inner": {"x": 1}}, "field 'inner.x' must be of type dict, not 1"),
])  # fmt: skip
def test_another_type_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        typed(Outer, {"names": [], "inner": {}, "count": 0} | change, "f")
    assert str(error.value) == f"f: {message}"
