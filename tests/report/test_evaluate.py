import pytest

from sparcom_jax.report.evaluate import _mark, _members
from sparcom_jax.report.marks import ABOVE, meaning


def test_combinations_are_told_apart_even_if_a_name_holds_a_plus() -> None:
    categories = ["A+B", "A", "B", "C"]
    for members in (["A+B"], ["A", "B"], ["A+B", "C"], ["A", "B", "C"], ["A+B", "A", "B", "C"]):
        assert _members({"categories": "+".join(members), "category_count": len(members)}, categories) == members
    assert _members({"categories": "A+D", "category_count": 2}, categories) == []


@pytest.mark.parametrize(("q_value", "comparable", "mark"), [
    (0.04, 9, ABOVE), (0.05, 9, ""), (None, 0, "?"), (None, 9, ""),
])  # fmt: skip
def test_marks_of_significance(q_value: float | None, comparable: int, mark: str) -> None:
    assert _mark({"q_value": q_value, "comparable": comparable}) == mark


def test_no_mark_is_promised_that_the_draws_cannot_give() -> None:
    assert "No mark can appear: p is 0.095 at least" in meaning(ABOVE, 2 / 21, "two-sided")
    assert meaning(f"{ABOVE} above", 0.001, "one-sided").startswith(f"{ABOVE} above: q < 0.05 (one-sided")
