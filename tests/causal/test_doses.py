"""Dose curves against a transformers model in which the first units by score are really switched off."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.parts import first_units, parts_of
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.verify.reference import Reference
from tests.causal.references import reference_nll, table

SETTINGS = AblationSettings(doses="5,30", draws=2, per_category=2, bootstraps=9)
EXECUTION = ExecutionSettings(batch_tokens=512)


def test_the_first_units_are_those_of_the_highest_score_and_nested() -> None:
    random = np.random.default_rng(0)
    score = random.integers(0, 4, (3, 50)).astype(np.float32)  # with many ties
    mask = random.random((3, 50)) < 0.6
    smaller = np.zeros_like(mask)
    for size in (1, 7, 20):
        first = first_units(score, mask, size)
        for category in range(3):
            order = sorted(np.flatnonzero(mask[category]), key=lambda unit: (-score[category, unit], unit))
            np.testing.assert_array_equal(np.flatnonzero(first[category]), sorted(order[:size]))
        assert (first >= smaller).all()
        smaller = first


def test_doses(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=30, control_length=False))
    out = tmp_path / "out"
    summary = ablate(llama, run, units, out, SETTINGS, EXECUTION)
    rows = table(out / "doses.csv")
    assert [(row["category"], row["units_off"]) for row in rows] == [
        (name, dose) for dose in ("5", "30") for name in run.categories
    ]
    assert rows[3:] == table(out / "selectivity.csv")  # 30 are all
    measured = {row["id"] for row in table(out / "instruction_effects.csv")}
    scored = [[row for row in run.instructions if row["id"] in measured and row["category"] == name]
              for name in run.categories]  # fmt: skip
    for off, row in enumerate(rows[:3]):
        score, mask = units.score["mlp"][off], units.mask["mlp"][off]
        first = sorted(map(tuple, np.argwhere(mask).tolist()), key=lambda at: (-score[at], at))[:5]
        reference = Reference(hf_llama)
        with torch.no_grad():
            for layer, neuron in first:
                reference.model.model.layers[layer].mlp.down_proj.weight[:, neuron] = 0
        delta = [reference_nll(reference, llama, of).mean() - base
                 for of, base in zip(scored, summary["baseline"], strict=True)]  # fmt: skip
        apart = np.mean(np.delete(delta, off))
        found = [float(row[name]) for name in ("own", "others", "selectivity", "own_per_unit")]
        np.testing.assert_allclose(found, [delta[off], apart, delta[off] - apart, delta[off] / 5], atol=2e-4)
        assert float(row["ci_low"]) <= found[2] <= float(row["ci_high"])
        assert row["own_random"]
        assert row["selectivity_matched"]
    without = ablate(llama, run, units, tmp_path / "without", replace(SETTINGS, doses=""), EXECUTION)
    assert table(tmp_path / "without" / "doses.csv") == []
    assert without["targets"] == summary["targets"]


def test_doses_that_cannot_be_are_refused(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=30, control_length=False))
    with pytest.raises(InputError, match="doses '5,31': 31 is more than some category of units 'auroc' has: all have "
                                         "30 neurons"):  # fmt: skip
        ablate(llama, run, units, tmp_path / "out", replace(SETTINGS, doses="5,31"), EXECUTION)
    assert not (tmp_path / "out").exists()
    for doses in ("5,5", "5,3", "0,3", "a", "3,", "3 ,4"):
        with pytest.raises(InputError, match="must be numbers of units, from small to large, with commas between"):
            replace(SETTINGS, doses=doses).check()
    assert [part.dose for part in parts_of(units, SETTINGS)] == [None, 5, 30]
    units.score["mlp"][1] = 2.0
    with pytest.raises(
        InputError, match="doses have no effect: all neurons of B in units 'auroc' have the score 2, so"
    ):
        parts_of(units, SETTINGS)
