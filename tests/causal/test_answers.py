"""Answers with units off against a model whose weights are 0 there, and what is counted of them."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.answers import answer
from sparcom_jax.causal.settings import AblationSettings, AnswerSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.answers import are_right
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.report.page import report
from sparcom_jax.store.run import Run
from tests import checkpoints

SMALL = ExecutionSettings(batch_tokens=128)
SETTINGS = AnswerSettings(new_tokens=6, draws=1)


@pytest.fixture(scope="module")
def rows() -> InstructionSet:
    words = " ".join(checkpoints.TEXT).split()
    made: list[dict[str, Any]] = []
    for at in range(24):
        text = " ".join(words[(5 * at + place) % len(words)] for place in range(3 + at % 7))
        row: dict[str, Any] = {"id": f"r{at}", "instruction": text}
        if at % 2:
            row |= {"category": "CLS", "labels": ["a", "the"], "response": "the"}
        else:
            row |= {"category": "QA", "response": words[at]}
        made.append(row)
    return InstructionSet("rows", made, ["CLS", "QA"])


@pytest.fixture(scope="module")
def run(llama: ModelDir, rows: InstructionSet, tmp_path_factory: pytest.TempPathFactory) -> Run:
    made = capture(llama, rows, tmp_path_factory.mktemp("answers") / "run", execution=SMALL)
    sj.select(made, sj.SelectSettings(size=30))
    return made


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def generated(model: ModelDir, rows: InstructionSet, path: Path) -> dict[str, str]:
    """What the model answers by itself, as a capture keeps it, but for special tokens."""
    settings = CaptureSettings(scope="generated", new_tokens=SETTINGS.new_tokens)
    run = capture(model, rows, path, settings, execution=SMALL)
    special = model.tokenizer().all_special_tokens
    texts = {row["id"]: row["generated"] for row in run.instructions}
    return {name: re.sub("|".join(map(re.escape, special)), "", text).strip() for name, text in texts.items()}


def test_answers_with_neurons_off_are_those_of_weights_at_zero(
    hf_llama: Path, llama: ModelDir, rows: InstructionSet, run: Run, tmp_path: Path
) -> None:
    units = sj.open_units(run, "auroc")
    summary = answer(llama, run, units, tmp_path / "out/answer", SETTINGS, execution=SMALL)
    texts = read_rows(tmp_path / "out/answer/answer_texts.csv")
    expected = {"": generated(llama, rows, tmp_path / "run")}
    for at, category in enumerate(run.categories):
        source = tmp_path / category
        source.mkdir()
        for file in hf_llama.iterdir():
            (source / file.name).write_bytes(file.read_bytes())
        weights = load_file(source / "model.safetensors")
        for layer, off in enumerate(units.mask["mlp"][at]):
            name = f"model.layers.{layer}.mlp.down_proj.weight"
            weights[name] = weights[name] * ~off[None]
        save_file(weights, source / "model.safetensors", {"format": "pt"})
        edited = convert(source, tmp_path / f"{category}-model")
        expected[category] = generated(edited, rows, tmp_path / f"{category}-run")
    held_out = {row["id"] for row in run.instructions} - {*units.origin["half"]}
    assert {row["id"] for row in texts} == held_out
    assert len(texts) == 3 * len(held_out)
    for row in texts:
        assert row["answer"] == expected[row["category_off"]][row["id"]]
    assert any(expected[""][name] != expected["CLS"][name] for name in held_out)

    by_id = {row["id"]: row for row in run.instructions}
    table = read_rows(tmp_path / "out/answer/answers.csv")
    assert len(table) == 2 + 2 * 2 * (1 + SETTINGS.draws)
    for row in table:
        if row["draw"]:
            assert row["kind"] == "random_matched"
            continue
        of = [one for one in texts if (one["category_off"], one["category"]) ==
              (row["category_off"], row["category_measured"])]  # fmt: skip
        right = sum(are_right([by_id[one["id"]] for one in of], [one["answer"] for one in of]))
        assert (int(row["instructions"]), int(row["right"])) == (len(of), right)
        assert sum(int(one["right"]) for one in of) == right
        assert float(row["accuracy"]) == pytest.approx(right / len(of))
    assert summary["asked"] == [len([i for i in held_out if by_id[i]["category"] == name]) for name in run.categories]
    page = report(tmp_path / "out", tmp_path / "report.html").read_text()
    assert 'id="matter-answer-answer"' in page


def test_what_cannot_be_asked(llama: ModelDir, run: Run, tmp_path: Path, instruction_file: Path) -> None:
    units, out = sj.open_units(run, "auroc"), tmp_path / "out"
    with pytest.raises(InputError, match="how mean sets neurons to values of other texts"):
        answer(llama, run, units, out, SETTINGS, AblationSettings(how="mean"), SMALL)
    with pytest.raises(InputError, match="new_tokens 0 must be positive and draws 1 not negative"):
        answer(llama, run, units, out, AnswerSettings(new_tokens=0, draws=1))
    with pytest.raises(InputError, match=r"prompt and 9000 new tokens are longer than the model's \d+ positions: r"):
        answer(llama, run, units, out, AnswerSettings(new_tokens=9000), execution=SMALL)
    others = capture(llama, sj.load_instructions(instruction_file), tmp_path / "others", execution=SMALL)
    (chosen,) = sj.select(others, sj.SelectSettings(size=9))
    with pytest.raises(InputError, match="no answer can be settled: that takes CLS with labels"):
        answer(llama, others, chosen, out, SETTINGS, execution=SMALL)
    assert not out.exists()


def test_so_many_of_each_category_are_asked(llama: ModelDir, run: Run, tmp_path: Path) -> None:
    answer(llama, run, sj.open_units(run, "auroc"), tmp_path, AnswerSettings(new_tokens=2, draws=0),
           AblationSettings(per_category=2), SMALL)  # fmt: skip
    assert {int(row["instructions"]) for row in read_rows(tmp_path / "answers.csv")} == {2}
    assert json.loads((tmp_path / "summary.json").read_text())["asked"] == [2, 2]
    assert not any(row["draw"] for row in read_rows(tmp_path / "answers.csv"))
    assert np.isfinite([float(row["change"]) for row in read_rows(tmp_path / "answers.csv")]).all()
