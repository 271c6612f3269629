"""Trainings compared with each other: by hand, in a study, and in the report of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.settings import checked, default_config
from sparcom_jax.study import analyze
from sparcom_jax.tune.outcomes import best_trainings
from sparcom_jax.tune.settings import TuningsSettings
from sparcom_jax.tune.tunings import _Draws, _means, _over, _ranks, _share, tunings
from sparcom_jax.units.file import read_safetensors
from tests.synthetic_results import read_table

TRAININGS = {"units:auroc:B": [1e-2, 1e-4], "random:auroc:B": [1e-2], "lora:1": [1e-2], "all": [1e-3]}


def config_of(source: Path, instructions: Path) -> ConfigDict:
    config = default_config()
    config.instructions = str(instructions)
    config.execution.batch_tokens = 256
    config.pairs = ConfigDict({"tiny": {"tuned": str(source)}})
    for section in (config.evaluate, config.compare):
        section.permutations = section.bootstraps = 20
    config.select.update({"size": 5, "control_length": False})
    config.attribute.per_category = config.explore.top = config.explore.sample = 1
    config.ablate.update({"per_category": 1, "draws": 1, "bootstraps": 5})
    config.tune.update({"category": "B", "epochs": 1, "per_category": 5, "validation": 0.3})
    config.tunings.update({"seeds": 2, "bootstraps": 50, "draws": 20})
    config.trainings = ConfigDict(TRAININGS)
    return config


@pytest.fixture(scope="module")
def study(hf_llama: Path, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study") / "out"
    analyze(checked(config_of(hf_llama, instruction_file)), output)
    return output


def test_a_study_of_trainings(study: Path, hf_llama: Path, instruction_file: Path) -> None:
    results = study / "results/tunings-tiny-tuned"
    rows = {row["training"]: row for row in read_table(results / "tunings.csv")}
    assert list(rows) == sorted(TRAININGS)
    rate = float(rows["units:auroc:B"]["learning_rate"])
    assert rate in TRAININGS["units:auroc:B"]
    assert {row["seeds"] for row in rows.values()} == {"2"}
    trained = {path.name for path in (study / "tuned/tiny-tuned").iterdir()}
    assert trained == {
        f"units-auroc-B-{rate:g}-1", "units-auroc-B-0.01-0", "units-auroc-B-0.0001-0", "random-auroc-B-0.01-0",
        "random-auroc-B-0.01-1", "lora-1-0.01-0", "lora-1-0.01-1", "all-0.001-0", "all-0.001-1",
    }  # fmt: skip
    # What stands there is what the trainings say of the held-out instructions.
    for name, row in rows.items():
        of = [
            study / f"tuned/tiny-tuned/{name.replace(':', '-')}-{float(row['learning_rate']):g}-{seed}"
            for seed in (0, 1)
        ]
        changes = [
            [float(one["after"]) - float(one["before"]) for one in read_table(path / "evaluation_rows.csv")
             if (one["part"], one["category"] == "B") == ("held_out", learnt)]
            for path in of for learnt in (True, False)
        ]  # fmt: skip
        gain = -np.mean([changes[0], changes[2]])
        np.testing.assert_allclose(float(row["gain"]), gain, rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(float(row["forgetting"]), np.mean([changes[1], changes[3]]), rtol=1e-5, atol=1e-9)
        assert float(row["gain_low"]) <= float(row["gain"]) <= float(row["gain_high"])
        whole = float(rows["all"]["gain"])
        np.testing.assert_allclose(float(row["share"]), float(row["gain"]) / whole, rtol=1e-5)
    units = read_table(results / "tuned_units.csv")
    assert [(row["training"], row["units"]) for row in units] == [
        (name, of) for name in TRAININGS for of in ("random:auroc:B", "units:auroc:B")
    ]
    assert all(0 <= float(row["percentile"]) <= 1 and 0 < float(row["p_value"]) <= 1 for row in units)
    assert [row["trained"] for row in units] == ["0", "1", "1", "0", "0", "0", "0", "0"]
    summary = json.loads((results / "summary.json").read_text())
    assert summary["held_out"] == 1
    assert [Path(run).name for run in summary["tuned"]] == [
        f"tiny-tuned-{name.replace(':', '-')}" for name in TRAININGS
    ]
    page = (study / "report.html").read_text()
    assert 'id="trained-tunings-tiny-tuned"' in page
    assert page.count("sparcom tunings ") == 1
    for name in ("units-auroc-B", "all"):
        assert (study / f"results/compare-tiny-tuned-tiny-tuned-{name}/summary.json").exists()
    before = {
        path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file() and path.name != "report.html"
    }
    analyze(checked(config_of(hf_llama, instruction_file)), study)
    after = {
        path: path.stat().st_mtime_ns for path in study.rglob("*") if path.is_file() and path.name != "report.html"
    }
    assert after == before


def test_the_units_that_changed_are_found(study: Path, tmp_path: Path) -> None:
    """Of a model whose training moved some units far, these are above all others of their layers."""
    tuned = study / "runs/tiny-tuned-units-auroc-B"
    settings = TuningsSettings(bootstraps=10, draws=50)
    output = tunings(
        study / "runs/tiny-tuned", study / "tuned/tiny-tuned", tmp_path / "out", settings, tuned_runs=[tuned]
    )
    (other, own) = read_table(tmp_path / "out/tuned_units.csv")
    assert output["tuned"] == [str(tuned)]
    run, after = sj.open_run(study / "runs/tiny-tuned"), sj.open_run(tuned)
    rows = run.category == run.categories.index("B")
    drift = np.abs(
        np.mean(np.asarray(after.frequency("mlp").read().result())[rows], 0)
        - np.mean(np.asarray(run.frequency("mlp").read().result())[rows], 0)
    )
    directory = best_trainings(study / "tuned/tiny-tuned")["units:auroc:B"][0].directory
    mask = read_safetensors(directory / "trained.safetensors").mask["mlp"][0]
    np.testing.assert_allclose(float(own["drift"]), drift[mask].mean(), rtol=1e-5)
    assert float(own["percentile"]) > float(other["percentile"])
    assert int(own["count"]) == mask.sum() == 5


def test_ranks_and_means_by_hand() -> None:
    ranks = _ranks(np.asarray([[3.0, 1.0, 2.0], [5.0, 5.0, 7.0]]))
    np.testing.assert_allclose(ranks, [[1.0, 0.0, 0.5], [0.25, 0.25, 1.0]])
    weights = np.asarray([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 1, 1]], np.float64)
    draws = _Draws(weights, np.asarray([[1, 1], [0, 2]], np.float64))
    change = np.asarray([[1.0, 2.0, 3.0, 4.0, 5.0, 3.0], [3.0, 4.0, 5.0, 6.0, 7.0, 5.0]])
    found = _means(change, np.asarray([0, 0, 0, 0, 0, 2]), 3, draws)
    # One instruction is too few for an interval, so that there is no sample of the last category.
    np.testing.assert_allclose(found, [[4.0, np.nan, 4.0], [4.8, np.nan, np.nan]])
    assert _over(found, np.asarray([True, True, False])).tolist() == [4.0, 4.8]
    np.testing.assert_equal(_over(found, np.asarray([True, False, True])), [4.0, np.nan])
    assert np.isnan(_over(found, np.asarray([False, True, False]))).all()


def test_what_cannot_be_compared(study: Path, instruction_file: Path, tmp_path: Path) -> None:
    base, trained = study / "runs/tiny-tuned", study / "tuned/tiny-tuned"
    for where, message in (
        (tmp_path / "none", "none: no such directory"),
        (study / "runs", "runs: no results of finetune"),
    ):
        with pytest.raises(InputError, match=message):
            tunings(base, where, tmp_path / "out")
    with pytest.raises(InputError, match="was captured from none of the models that were trained"):
        tunings(base, trained, tmp_path / "out", tuned_runs=[base])
    tuned = trained / "all-0.001-0/model"
    sj.capture(tuned, instruction_file, tmp_path / "plain", sj.CaptureSettings(template="plain"))
    others = tmp_path / "others.jsonl"
    others.write_text("".join(reversed(instruction_file.read_text().splitlines(keepends=True))))
    sj.capture(tuned, others, tmp_path / "other")
    copy = shutil.copytree(trained, tmp_path / "copy")
    again = shutil.copytree(copy / "all-0.001-1", copy / "again")
    with pytest.raises(InputError, match=r"all was trained twice with seed 1 and learning_rate 0\.001"):
        tunings(base, copy, tmp_path / "out")
    shutil.rmtree(again)
    summary = json.loads((copy / "lora-1-0.01-0/summary.json").read_text())
    for change, message in (
        ({"settings": summary["settings"] | {"epochs": 7}}, r"was not trained as .* \(epochs 7, now 1\), so that they"),
        ({"train": summary["train"] | {"digest": "x"}}, r"was not trained as .*lora.* \(units 'x', now '.*'\)"),
        ({"instructions": {"source": "", "digest": "x"}}, "was trained on other instructions than"),
        ({"learnt": [1, 0, 0]}, "learnt from or held out other instructions than the first training"),
        ({"categories": ["A", "B", "C", "D"], "learnt": [0, 1, 0, 0]}, "has the categories A, B, C, D, .* A, B, C"),
        ({"model": {"family": "llama", "path": "", "digest": "x", "parameters": 1}}, "was trained from another model"),
    ):
        file = copy / "lora-1-0.01-0/summary.json"
        was: dict[str, Any] = json.loads(file.read_text())
        file.write_text(json.dumps(was | change))
        with pytest.raises(InputError, match=message):
            tunings(base, copy, tmp_path / "out")
        file.write_text(json.dumps(was))
    for other, message in (
        ("other", "other: has other instructions than"),
        ("plain", r"plain: was captured otherwise than .* \(template 'none', now 'plain'\)"),
    ):
        with pytest.raises(InputError, match=message):
            tunings(base, trained, tmp_path / "out", tuned_runs=[tmp_path / other])
    assert not (tmp_path / "out").exists()


def test_losses_of_other_templates_are_not_compared(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study / "tuned/tiny-tuned", tmp_path / "copy")
    for seed in (0, 1):
        file = copy / f"lora-1-0.01-{seed}/summary.json"
        summary = json.loads(file.read_text())
        file.write_text(json.dumps(summary | {"settings": summary["settings"] | {"template": "plain"}}))
    with pytest.raises(InputError, match=r"was not trained as .*all.* \(template 'none', now 'plain'\)"):
        tunings(study / "runs/tiny-tuned", copy, tmp_path / "out")


def test_no_share_of_a_gain_that_is_none() -> None:
    """Of a training of everything that gained nothing for sure, a share would be any number."""
    learnt = np.asarray([True])
    gain = np.asarray([0.1, 0.2, 0.1])
    means = {"all": -np.asarray([[0.4], [0.5], [0.2]]), "none": -np.asarray([[0.4], [0.5], [-0.2]])}
    np.testing.assert_allclose(_share(gain, means, learnt, "all"), [0.25, 0.4, 0.5])
    assert np.isnan(_share(gain, means, learnt, "none")).all()
    assert np.isnan(_share(gain, means, learnt, None)).all()


def test_a_stage_that_was_cut_off_or_changed_is_made_again(
    study: Path, hf_llama: Path, instruction_file: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(study, tmp_path / "copy")
    place = copy / "tuned/tiny-tuned/lora-1-0.01-1"
    was = (place / "evaluation.csv").read_bytes()
    (place / "evaluation.csv").write_text("")
    marker = copy / "stages/finetune-tiny-tuned-lora-1-0.01-0.json"
    content = json.loads(marker.read_text())
    marker.write_text(json.dumps(content | {"output": None}))
    analyze(checked(config_of(hf_llama, instruction_file)), copy)
    assert (place / "evaluation.csv").read_bytes() == was
    assert json.loads(marker.read_text()) == content


def test_settings_of_trainings(hf_llama: Path, instruction_file: Path) -> None:
    config = config_of(hf_llama, instruction_file)
    for trainings, message in (
        ({"units": [1.0]}, "train 'units' is not known"),
        ({"all": 1.0}, r"config field trainings: all needs a list of learning rates, not 1\.0"),
        ({"all": []}, "needs a list of learning rates"),
        ({"all": ["x"]}, "needs a list of learning rates"),
        (
            {"units:a:b-c": [1.0], "units:a-b:c": [1.0]},
            "units:a:b-c and units:a-b:c would share the directory units-a-b-c",
        ),
    ):
        study = replace(checked(config), trainings=trainings)
        with pytest.raises(InputError, match=message):
            study.check()
    study = replace(checked(config), tune=replace(checked(config).tune, validation=0.0))
    with pytest.raises(InputError, match=r"of the learning rates of units:auroc:B the best is taken by the validation"):
        study.check()
    for field in ("seeds", "bootstraps", "draws"):
        with pytest.raises(InputError, match=f"{field} must be positive, got 0"):
            TuningsSettings(**{field: 0}).check()
    with pytest.raises(InputError, match="seed must not be negative"):
        TuningsSettings(seed=-1).check()
