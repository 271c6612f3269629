"""JSON that Python's reader takes and that means two things, or nothing."""

import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.strict_json import loads


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
