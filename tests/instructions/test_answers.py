"""Which answers are right, kind by kind."""

from typing import Any

import pytest

from sparcom_jax.instructions.answers import are_right, code_of, is_settled

CLS = {"id": "c", "category": "CLS", "labels": ["positive", "negative"], "response": "positive"}
QA = {"id": "q", "category": "QA", "response": "Lake Geneva."}
MATH = {"id": "m", "category": "MATH", "response": "So 3 times 417. The answer is 1,251."}
CODE = {"id": "p", "category": "CODE", "response": "def f(x):\n    return x", "check": "assert f(2) == 4"}
DOUBLE = "def f(x):\n    return 2 * x"


@pytest.mark.parametrize(("row", "answer", "right"), [
    (CLS, "The sentiment is Positive.", True),
    (CLS, "positive or negative", False),
    (CLS, "It is good.", False),
    (QA, "That would be lake Geneva, in Switzerland", True),
    (QA, "Lake Genevan", False),
    (MATH, "417 + 417 + 417 = 1251", True),
    (MATH, "The answer is 1,251, or 1252", False),
    (MATH, "The answer is 1251.0.", True),
    (MATH, "I do not know", False),
    (CODE, f"Here it is:\n```python\n{DOUBLE}\n```\nIt doubles. ```x```", True),
    (CODE, DOUBLE, True),
    (CODE, "def f(x):\n    return 3 * x", False),
    (CODE, "Sure! Here is the function.", False),
    (CODE, "import sys\nsys.exit(0)", False),
])  # fmt: skip
def test_right_and_wrong_answers(row: dict[str, Any], answer: str, right: bool) -> None:
    assert are_right([row], [answer]) == [right]


def test_many_at_once_keep_their_order() -> None:
    assert are_right([CODE, CLS, CODE, QA], [DOUBLE, "negative", "f = 1", "lake geneva"]) == [True, False, False, True]


@pytest.mark.parametrize(("row", "execute", "settled"), [
    (CLS, False, True),
    ({**CLS, "labels": None}, False, False),
    ({**CLS, "response": "mixed"}, False, False),
    (QA, False, True),
    ({**QA, "response": None}, False, False),
    (MATH, False, True),
    ({**MATH, "response": "It is 3."}, False, False),
    (CODE, False, False),
    (CODE, True, True),
    ({**CODE, "language": "c"}, True, False),
    ({"id": "s", "category": "SUM", "response": "Short."}, True, False),
])  # fmt: skip
def test_what_can_be_settled(row: dict[str, Any], execute: bool, settled: bool) -> None:
    assert is_settled(row, execute) == settled


@pytest.mark.parametrize(("answer", "code"), [
    ("x = 1", "x = 1"),
    ("```\nx = 1\n```", "x = 1"),
    ("First ```py\nx = 1``` then ```y```", "x = 1"),
    ("```python\nx = 1", "x = 1"),
])  # fmt: skip
def test_the_code_of_an_answer(answer: str, code: str) -> None:
    assert code_of(answer) == code
