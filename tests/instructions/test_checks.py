"""Checks of responses: what each rule lets pass, and what it names."""

from typing import Any

import pytest

from sparcom_jax.instructions.checks import check_rows, final_answer, is_checked


def faults(category: str, instruction: str, response: str, **fields: Any) -> str:
    row = {"id": "a", "category": category, "instruction": instruction, "response": response, **fields}
    assert is_checked(row)
    return "; ".join(check_rows([row], run_code=True).get("a", []))


CLS = "Is 'good day' polite or rude?"
CODE = "Write add(a, b)."
ADD = "def add(a, b):\n    return a + b"
QA = "Which metal is liquid at room temperature?"
GEN = "Write two lines about tea; use the word steam and not the word hot, in at most ten words."
TEA = "Steam goes up,\nsleep goes down."
MATH = "Ann has 40 apples and eats 3 a day for 5 days. How many are left?"
TEXT = "On Monday 12 boats left Genoa for Tunis, and eleven of them came back on Friday in heavy rain."
SUM = f"In a few words: {TEXT}"

PASS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("CLS", CLS, "polite", {"labels": ["polite", "rude"]}),
    ("CODE", CODE, ADD, {"check": "assert add(1, 2) == 3"}),
    ("CODE", "Select all.", "SELECT 1", {"check": "assert response.startswith('SELECT')", "language": "sql"}),
    ("QA", QA, "mercury", {}),
    ("GEN", GEN, TEA, {"constraints": {"lines": 2, "include": ["steam"], "avoid": ["hot"], "max_words": 10}}),
    ("MATH", MATH, "40 - 15 = 25. The answer is 25.", {"check": "answer = 40 - sum(3 for day in range(5))"}),
    ("MATH", "What is 2 / 3, to two decimal places?", "The answer is 0.67.", {"check": "answer = 2 / 3"}),
    ("MATH", "What is the half of 2 / 3?", "The answer is 1/3.",
     {"check": "from fractions import Fraction\nanswer = Fraction(2, 3) / 2"}),
    ("SUM", SUM, "Eleven of 12 boats came back from Tunis.", {"text": TEXT}),
]  # fmt: skip

FAIL: list[tuple[str, str, str, dict[str, Any], str]] = [
    ("CLS", CLS, "kind", {"labels": ["polite", "rude"]}, "response 'kind' is none of the labels"),
    ("CLS", CLS, "polite", {"labels": ["polite", "blunt"]}, "labels not named in the instruction: blunt"),
    ("CLS", CLS, "polite", {"labels": "polite"}, "labels is not a list"),
    ("CODE", CODE, ADD, {"check": "add(1, 2)"}, "check has no assertion"),
    ("CODE", CODE, ADD, {"check": "assert add(1, 2) =="}, "check has no assertion"),
    ("CODE", CODE, ADD.replace("+", "-"), {"check": "assert add(1, 2) == 3"}, "check fails: AssertionError"),
    ("CODE", CODE, ADD, {"check": "import time\nassert add(1, 2) == 3\ntime.sleep(60)"}, "check ran longer than 1 s"),
    ("CODE", CODE, ADD, {"check": "assert add(1, 2) == 3\nraise SystemExit(4)"}, "check fails: exit code 4"),
    ("CODE", CODE, ADD + "\nraise SystemExit", {"check": "assert add(1, 2) == 4"}, "check did not run to its end"),
    ("MATH", MATH, "The answer is 25.", {"check": "answer = 5 * 5\nraise SystemExit(0)"}, "check did not run"),
    ("QA", QA, "It is mercury, the element with the symbol Hg.", {}, "more than 8 words"),
    ("QA", QA, "liquid", {}, "the instruction contains the response"),
    ("GEN", GEN, TEA + "\nOh.", {"constraints": {"lines": 2}}, "response breaks lines 2"),
    ("GEN", GEN, TEA, {"constraints": {"lines": 2, "words": 6}}, "the instruction does not state words 6"),
    ("GEN", GEN, TEA, {"constraints": {"include": ["sleep"]}}, "the instruction does not state include sleep"),
    ("GEN", GEN, "Hot steam.", {"constraints": {"avoid": ["hot"]}}, "response breaks avoid"),
    ("GEN", GEN, TEA, {"constraints": {"verses": 2}}, "unknown constraint 'verses'"),
    ("GEN", GEN, TEA, {"constraints": {"lines": "two"}}, "constraint lines is not a int"),
    ("MATH", MATH, "It is 25.", {"check": "answer = 40 - 3 * 5"}, "does not end with"),
    ("MATH", MATH, "The answer is 25.", {"check": "answer = 25"}, "check works nothing out"),
    ("MATH", MATH, "The answer is 25.", {"check": "answer = 25 * 1"}, "check contains the answer"),
    ("MATH", MATH, "The answer is 26.", {"check": "answer = 40 - 3 * 5"}, "response says 26, check works out 25"),
    ("MATH", MATH, "The answer is 25.", {"check": "result = 40 - 3 * 5"}, "works out None, which is no number"),
    ("SUM", SUM, "Eleven boats came back.", {"text": "Another text."}, "text is not part of the instruction"),
    ("SUM", SUM, TEXT, {"text": TEXT}, "more than half"),
    ("SUM", SUM, "Nine boats, or 13, came back.", {"text": TEXT}, "numbers that the text lacks: 13, 9"),
    ("SUM", SUM, "The boats sailed from Genoa to Malta.", {"text": TEXT}, "names that the text lacks: Malta"),
]  # fmt: skip


@pytest.mark.parametrize(("category", "instruction", "response", "fields"), PASS)
def test_good_responses_pass(category: str, instruction: str, response: str, fields: dict[str, Any]) -> None:
    assert faults(category, instruction, response, **fields) == ""


@pytest.mark.parametrize(("category", "instruction", "response", "fields", "message"), FAIL)
def test_faults_are_named(
    category: str,
    instruction: str,
    response: str,
    fields: dict[str, Any],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sparcom_jax.instructions.checks.CODE_SECONDS", 1 if "sleep" in fields.get("check", "") else 10)
    assert message in faults(category, instruction, response, **fields)


def test_code_runs_only_when_asked() -> None:
    row = {"id": "a", "category": "CODE", "instruction": CODE, "response": "1 / 0", "check": "assert False"}
    assert check_rows([row], run_code=False) == {}
    assert check_rows([row], run_code=True) == {"a": ["check fails: ZeroDivisionError: division by zero"]}


@pytest.mark.parametrize("row", [
    {"category": "CLS", "response": "yes"},
    {"category": "SUM", "response": None, "text": "A text."},
    {"category": "OTHER", "response": "yes", "labels": ["yes"]},
])  # fmt: skip
def test_rows_without_their_field_are_not_checked(row: dict[str, Any]) -> None:
    row |= {"id": "a", "instruction": "Do it."}
    assert not is_checked(row)
    assert check_rows([row], run_code=True) == {}


@pytest.mark.parametrize(("response", "value"), [
    ("So the answer is 1,250.", 1250), ("The answer is -0.5", -0.5), ("The answer is 3/4.", 0.75),
    ("The answer is x.", None), ("The answer is 3 apples.", None),
    ("The answer is 3/0.", None), ("The answer is 3. Or 4.", None),
])  # fmt: skip
def test_final_answers(response: str, value: float | None) -> None:
    assert final_answer(response) == value
