"""What is said of weak results, and not said of others."""

from pathlib import Path

import numpy as np
import pytest

from sparcom_jax.analysis import cautions
from sparcom_jax.analysis.cautions import duplicates, odd_sizes
from tests.synthetic import make_run


def told(path: Path, labels: list[int], tokens: list[int], **more: object) -> list[str]:
    run = make_run(path, labels, token_count=tokens, categories=("CLS", "QA", "SUM")[: max(labels) + 1])
    given = {"duplicate_of": [""] * len(labels), "odd": {}, "untestable": {}, "smallest_p": 0.001} | more
    return list(cautions.cautions(run, **given))


def test_a_sound_run_is_not_cautioned_against(tmp_path: Path) -> None:
    assert told(tmp_path / "run", [0, 1, 2] * 20, [20] * 60) == []


@pytest.mark.parametrize(("labels", "tokens", "more", "start"), [
    ([0] * 30, 30, {}, "There is one category: nothing to compare it with"),
    ([0, 1] * 19, 30, {}, "Few instructions (CLS 19, QA 19; below 20)"),
    ([0, 0, 1] * 20, 30, {}, "Categories differ in size"),
    ([0, 1] * 20, 19, {}, "40 of 40 instructions have fewer than 20 counted tokens"),
    ([0, 1] * 20, 30, {"duplicate_of": ["", "i0", *[""] * 38]}, "1 instructions repeat the text of an earlier one"),
    ([0, 1] * 20, 30, {"odd": {"mlp": np.arange(40) < 3}}, "mlp: |S(i)| of 3 instructions is more than twice"),
    ([0, 1] * 20, 30, {"untestable": {("CLS", "QA"): "so"}}, "CLS and QA are untestable: so."),
    ([0, 1] * 20, 30, {"smallest_p": 0.05}, "No contrast can be significant: the least p-value"),
])  # fmt: skip
def test_what_is_weak_is_said(tmp_path: Path, labels: list[int], tokens: int, more: dict, start: str) -> None:
    (sentence,) = told(tmp_path / "run", labels, [tokens] * len(labels), **more)
    assert sentence.startswith(start)


def test_sizes_are_odd_from_twice_the_median_on() -> None:
    np.testing.assert_array_equal(odd_sizes(np.array([10, 20, 4, 5, 21, 10, 10])), [0, 0, 1, 0, 1, 0, 0])


@pytest.mark.parametrize("most", [3, 5000])
def test_equal_texts_are_found(tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cautions, "MOST_COMPARED", most)
    run = make_run(tmp_path / "run", [0, 1, 0, 1])
    texts = ["Name the capital of France, please.", "Sort these.", "name the capital  of france, please.", "Sort it."]
    run.__dict__["instructions"] = [{"id": f"i{row}", "instruction": text} for row, text in enumerate(texts)]
    assert duplicates(run) == ["", "", "i0", ""]


def test_texts_that_are_nearly_equal_are_found(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0, 1, 0])
    long = "Tell me which of the following animals lives in the sea and breathes air"
    texts = [long + ".", "What is a dog?", long + " instead."]
    run.__dict__["instructions"] = [{"id": f"i{row}", "instruction": text} for row, text in enumerate(texts)]
    assert duplicates(run) == ["", "", "i0"]
