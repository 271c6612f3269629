"""The shipped set keeps every rule, and the card names every rule that a file breaks."""

import dataclasses
import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.card import Card, gram_overlap, length_accuracy, length_bin, make_card, render
from sparcom_jax.instructions.checks import words_of
from sparcom_jax.instructions.rows import InstructionSet

CATEGORIES = ["CLS", "CODE", "QA", "GEN", "MATH", "SUM"]


@pytest.fixture(scope="module")
def card() -> Card:
    return make_card(sj.load_hexainst(), run_code=True)


def test_the_shipped_set_breaks_no_rule(card: Card) -> None:
    assert card.faults == []
    assert list(card.categories) == CATEGORIES
    for name, one in card.categories.items():
        assert one.rows == 200
        assert all(60 <= one.bins[which] <= 75 for which in ("short", "medium", "long"))
        assert one.openings >= 120
        assert (one.topics or 0) >= 20
        assert one.nearest[0] <= 0.3
        assert one.checked >= (100 if name == "GEN" else 200)
        assert one.sources == {"ai": 200}
    assert card.length_accuracy["words"] <= 0.25


def test_rows_of_the_shipped_set_are_complete() -> None:
    rows = sj.load_hexainst().rows
    for row in rows:
        for field in ("id", "category", "instruction", "response", "source", "topic", "length_bin"):
            assert isinstance(row[field], str), (row["id"], field)
            assert row[field] == row[field].strip() != "", (row["id"], field)
    assert [row["id"] for row in rows] == [f"{name.lower()}-{n:03}" for name in CATEGORIES for n in range(1, 201)]


def test_the_near_duplicates_of_the_shipped_set(card: Card) -> None:
    """The index of shared grams against every pair of sets."""
    for category in CATEGORIES:
        texts = [row["instruction"] for row in sj.load_hexainst().rows if row["category"] == category]
        words = [words_of(text) for text in texts]
        sets = [{tuple(one[i : i + 5]) for i in range(max(1, len(one) - 4))} for one in words]
        largest = max(len(a & b) / len(a | b) for a, b in itertools.combinations(sets, 2))
        assert card.categories[category].nearest[0] == pytest.approx(largest)


def test_overlap_of_grams() -> None:
    texts = ["a b c d e f", "A b, c d e g", "x", "X!", "b c d e f"]
    assert gram_overlap(texts) == [(1.0, 2, 3), (0.5, 0, 4), (pytest.approx(1 / 3), 0, 1)]


@pytest.mark.parametrize(("words", "name"), [
    (9, "outside"), (10, "short"), (29, "short"), (30, "medium"), (79, "medium"), (80, "long"), (200, "long"),
    (201, "outside"),
])  # fmt: skip
def test_length_bins(words: int, name: str) -> None:
    assert length_bin("word " * words) == name


def test_length_accuracy_finds_what_there_is() -> None:
    category = np.repeat(np.arange(4), 100)
    random = np.random.default_rng(0)
    assert length_accuracy(10 * category + random.integers(0, 10, 400), category) > 0.9
    assert length_accuracy(random.integers(10, 200, 400), category) < 0.35


def spoil(change: dict[str, Any], index: int = 0, rows: list[dict[str, Any]] | None = None) -> list[str]:
    hexainst = sj.load_hexainst()
    changed = [dict(row) for row in (rows or hexainst.rows)]
    changed[index] |= change
    return make_card(dataclasses.replace(hexainst, rows=changed), run_code=False).faults


def test_broken_rules_are_named() -> None:
    rows = sj.load_hexainst().rows
    assert any("categories differ in size: CLS 199, CODE 200" in fault for fault in spoil({}, rows=rows[1:]))
    assert any("pairs of rows overlap" in fault and "cls-001" in fault
               for fault in spoil({"instruction": rows[0]["instruction"]}, 1))  # fmt: skip
    assert any("1 of 200 rows are outside in length" in fault for fault in spoil({"instruction": "Too short."}))
    wrong = {"long": "short", "short": "medium", "medium": "long"}[rows[0]["length_bin"]]
    assert any(fault.startswith(f"cls-001: length_bin is '{wrong}'") for fault in spoil({"length_bin": wrong}))
    assert any("none of the labels" in fault for fault in spoil({"response": "neither"}))


def test_categories_told_by_length_topic_and_opening() -> None:
    texts = {"A": "Please say it now ", "B": "Then do so "}
    rows = [
        {"id": f"{name}{n}", "category": name, "topic": "one",
         "instruction": text + " ".join(f"{name}{n}w{i}" for i in range(12 if name == "A" else 40))}
        for name, text in texts.items() for n in range(40)
    ]  # fmt: skip
    faults = "\n".join(make_card(InstructionSet("rows", rows, ["A", "B"]), run_code=False).faults)
    assert "A: 40 of 40 rows are short in length" in faults
    assert "B: 0 of 40 rows are long in length" in faults
    assert "A: 0 of 40 rows have an opening of their own" in faults
    assert "A: 1 topics, at least 4 are needed" in faults
    assert "the length in words tells the category in 1.000 of the rows, over 0.750" in faults


def test_unbalanced_labels() -> None:
    rows = [
        {"id": str(n), "category": "CLS", "labels": ["yes", "no"], "response": "yes",
         "instruction": f"Is statement number {n} about subject {n * n} true, yes or no? It says {n} times {n}."}
        for n in range(40)
    ]  # fmt: skip
    faults = make_card(InstructionSet("rows", rows, ["CLS"]), run_code=False).faults
    assert "labels out of balance: no 0, yes 40" in faults
    assert "the label named first is the right one 40 times, expected are 20" in faults


@pytest.mark.parametrize(("field", "value"), [
    ("labels", 3), ("labels", "yes"), ("labels", [1, "yes"]), ("labels", {"yes": 1}), ("topic", 3), ("topic", ["a"]),
])  # fmt: skip
def test_fields_of_another_type_are_named(field: str, value: object) -> None:
    row = {"id": "a", "category": "CLS", "instruction": "Yes or no?", "response": "yes", field: value}
    with pytest.raises(InputError, match=f"^rows: 'a': field '{field}' must be a "):
        make_card(InstructionSet("rows", [row], ["CLS"]), run_code=False)


def test_the_card_as_text(card: Card) -> None:
    text = render(card)
    assert all(f"\n{name} " in text for name in CATEGORIES)
    assert text.endswith("\n0 faults")
    assert "sources: ai 1200" in text
    assert "responses at fault: 0, with their code run" in text


def test_the_data_card_shows_the_card(card: Card) -> None:
    shown = (Path(__file__).resolve().parents[2] / "docs" / "hexainst.md").read_text(encoding="utf-8")
    assert "".join(f"    {line}\n" if line else "\n" for line in render(card).splitlines()) in shown


def test_answers_of_questions_are_their_own() -> None:
    """An answer that many questions share would tell the category's content, not its kind."""
    answers = Counter(row["response"].lower() for row in sj.load_hexainst().rows if row["category"] == "QA")
    assert answers.most_common(1)[0][1] <= 3


def test_the_file_is_plain_jsonl() -> None:
    path = Path(sj.__file__).parent / "instructions" / "hexainst.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [json.dumps(json.loads(line), ensure_ascii=False) for line in lines] == lines
