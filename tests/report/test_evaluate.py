import pytest

from sparcom_jax.report.evaluate import _mark, _members


def test_combinations_are_told_apart_even_if_a_name_holds_a_plus() -> None:
    categories = ["A+B", "A", "B", "C"]
    for members in (["A+B"], ["A", "B"], ["A+B", "C"], ["A", "B", "C"], ["A+B", "A", "B", "C"]):
        assert _members({"categories": "+".join(members), "category_count": len(members)}, categories) == members
    assert _members({"categories": "A+D", "category_count": 2}, categories) == []


@pytest.mark.parametrize(("free", "by_length", "mark"), [
    (0.04, 0.04, "*"), (0.06, 0.04, "*"), (0.04, 0.06, "\N{DEGREE SIGN}"), (0.05, 0.05, ""), (None, None, ""),
    (0.04, None, "\N{DEGREE SIGN}"),
])  # fmt: skip
def test_marks_of_significance(free: float | None, by_length: float | None, mark: str) -> None:
    assert _mark({"q_value": free, "q_value_length": by_length}) == mark
