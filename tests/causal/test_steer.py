"""Units turned up and down while a model answers, against checkpoints in which they are."""

import json
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.causal.settings import SteerSettings
from sparcom_jax.causal.steer import repetition, steer
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.report.page import report
from tests.synthetic_results import read_table

SMALL = ExecutionSettings(batch_tokens=128)
PROMPTS = ["the cat sat", "one two three four five six", "on"]


@pytest.fixture(scope="module")
def run(llama: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    run = sj.capture(llama, instruction_file, tmp_path_factory.mktemp("run") / "run", execution=SMALL)
    sj.select(run, sj.SelectSettings(size=40, control_length=False))
    return run


def test_answers_are_those_of_an_edited_checkpoint(
    run: sj.Run, llama: ModelDir, hf_llama: Path, tmp_path: Path
) -> None:
    units = sj.open_units(run, "auroc")
    plain = sj.generate(llama, PROMPTS, new_tokens=8, execution=SMALL)
    assert sj.generate(str(llama.path), PROMPTS, sj.Steering(units, "B", 1.0), new_tokens=8, execution=SMALL) == plain
    for alpha in (0.0, 6.0):
        edited = tmp_path / f"hf{alpha}"
        sj.edit(hf_llama, units, "B", edited, sj.EditSettings(how="scale", alpha=alpha), run=run)
        model = sj.convert(edited, tmp_path / f"model{alpha}")
        steered = sj.generate(llama, PROMPTS, sj.Steering(units, "B", alpha), new_tokens=8, execution=SMALL)
        assert steered == sj.generate(model, PROMPTS, new_tokens=8, execution=SMALL) != plain


def test_answers_are_those_that_a_capture_continues(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    """The same greedy tokens as scope `generated` counts."""
    few = sj.load_instructions(instruction_file)
    rows = [row for row in few.rows if row["category"] == "A"][:5]
    settings = sj.CaptureSettings(scope="generated", new_tokens=7)
    part = type(few)("rows", rows, ["A"])
    run = sj.capture(llama, part, tmp_path / "run", settings, execution=SMALL)
    answers = sj.generate(llama, [row["instruction"] for row in rows], new_tokens=7, execution=SMALL)
    assert answers == [row["generated"].replace("<s>", "").strip() for row in run.instructions]


def test_dose_against_quality(run: sj.Run, llama: ModelDir, tmp_path: Path) -> None:
    settings = SteerSettings(alphas="0,1,3", category="B", new_tokens=6, draws=1, per_category=3)
    summary = steer(llama, run, "auroc", tmp_path / "results/steer", settings, SMALL)
    rows = read_table(tmp_path / "results/steer/steering.csv")
    assert summary["asked"] == [3, 3, 3]
    assert summary["steered"] == ["B"]
    doses = [(row["kind"], row["draw"], float(row["alpha"])) for row in rows[::3]]
    assert doses == [("none", "", 1.0), ("auroc", "", 0.0), ("auroc", "", 3.0), ("random_matched", "1", 0.0),
                     ("random_matched", "1", 3.0)]  # fmt: skip
    # The loss of the references is what an ablation of the same instructions finds.
    sj.ablate(llama, run, "auroc", tmp_path / "ablate",
              sj.AblationSettings(per_category=3, draws=1, bootstraps=5), SMALL)  # fmt: skip
    wanted = {
        row["category_measured"]: float(row["delta"])
        for row in read_table(tmp_path / "ablate/ablation.csv")
        if (row["kind"], row["category_off"]) == ("auroc", "B")
    }
    found = {row["category_measured"]: row for row in rows if (row["kind"], row["alpha"]) == ("auroc", "0")}
    assert found.keys() == wanted.keys()
    for name, delta in wanted.items():
        np.testing.assert_allclose(float(found[name]["change"]), delta, rtol=1e-3, atol=1e-5)
    # Untouched, the answers' own loss is that of the greedy tokens: no other token was more likely.
    texts = read_table(tmp_path / "results/steer/steering_texts.csv")
    assert len(texts) == 3 * 9
    plain = [row for row in texts if row["kind"] == "none"]
    held_out = [row for row in run.instructions if row["id"] in {one["id"] for one in plain}]
    chosen = sj.open_units(run, "auroc").origin["half"]
    assert not {row["id"] for row in held_out} & {*chosen}
    answers = sj.generate(llama, [row["instruction"] for row in held_out], new_tokens=6, execution=SMALL)
    assert [row["answer"] for row in plain] == answers
    for row in rows:
        assert 1 <= float(row["tokens"]) <= 6
        assert 0 <= float(row["repeated"]) <= 1
        assert float(row["own_nll"]) > 0
        assert (row["settled"], row["right"]) == ("0", "")
    page = report(tmp_path / "results", tmp_path / "report.html").read_text()
    assert 'id="matter-steer-steer"' in page
    assert "sparcom steer --model=" in page


def test_only_settled_answers_are_judged(llama: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model writes as code is not run; a row without its labels is no answer that could be right."""
    fields = {
        "QA": {"response": "the"},
        "CLS": {"response": "the"},
        "CODE": {"response": "x = 1", "check": "raise SystemExit('run')", "language": "python"},
    }
    rows = [{"id": f"{name}{number}", "category": name, "instruction": f"{name} the {number}", **of}
            for name, of in fields.items() for number in range(6)]  # fmt: skip
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = sj.capture(llama, file, tmp_path / "run", execution=SMALL)
    sj.select(run, sj.SelectSettings(size=6, control_length=False))
    monkeypatch.setattr("sparcom_jax.instructions.checks.subprocess", None)
    settings = SteerSettings(alphas="0,1", category="QA", new_tokens=4, draws=1, per_category=2)
    steer(llama, run, "auroc", tmp_path / "out", settings, SMALL)
    settled = {row["category_measured"]: row["settled"] for row in read_table(tmp_path / "out/steering.csv")}
    assert settled == {"QA": "2", "CLS": "0", "CODE": "0"}


def test_repetition_by_hand() -> None:
    assert repetition([1, 2, 3]) == 0
    assert repetition([1, 2, 3, 4, 5]) == 0
    assert repetition([7] * 7) == 0.75
    assert repetition([1, 2, 1, 2, 1, 2]) == pytest.approx(1 / 3)


def test_what_is_refused(run: sj.Run, llama: ModelDir, moe: ModelDir, tmp_path: Path) -> None:
    units = sj.open_units(run, "auroc")
    for alphas in ("", "1,0", "0,0", "x", "0,inf"):
        with pytest.raises(InputError, match=r"alphas .* must be numbers, from small to large, with commas between"):
            steer(llama, run, "auroc", tmp_path / "out", SteerSettings(alphas=alphas), SMALL)
    for settings, message in (
        (SteerSettings(category="Z"), "no category 'Z'; there are A, B, C"),
        (SteerSettings(new_tokens=0), "new_tokens 0 must be positive"),
        (SteerSettings(measured="some"), "measured 'some' is not known"),
        (SteerSettings(new_tokens=100_000), r"prompt and 100000 new tokens are longer than the model's \d+ positions"),
    ):
        with pytest.raises(InputError, match=message):
            steer(llama, run, "auroc", tmp_path / "out", settings, SMALL)
    with pytest.raises(InputError, match="was captured from another model"):
        steer(moe, run, "auroc", tmp_path / "out", SteerSettings(), SMALL)
    assert not (tmp_path / "out").exists()
    for steering, message in (
        (sj.Steering(units, "Z", 0.0), "have no category 'Z'; they are of A, B, C"),
        (sj.Steering(units, "B", float("nan")), "alpha must be finite, got nan"),
    ):
        with pytest.raises(InputError, match=message):
            sj.generate(llama, PROMPTS, steering)
    with pytest.raises(InputError, match="are of another model"):
        sj.generate(moe, PROMPTS, sj.Steering(units, "B", 0.0))
    with pytest.raises(InputError, match="prompt 1: is empty"):
        sj.generate(llama, ["a", " "])
    with pytest.raises(InputError, match="new_tokens must be positive, got 0"):
        sj.generate(llama, ["a"], new_tokens=0)
