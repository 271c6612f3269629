"""Trainings in half precision: what is computed, what is stored, and what is said of it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.model_dir import ModelDir, convert, open_model
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.tune.finetune import finetune
from sparcom_jax.tune.settings import TuneSettings
from tests import checkpoints
from tests.parameters import leaves_of
from tests.synthetic_results import read_table

FEW = TuneSettings(category="B", epochs=4, learning_rate=3e-3, per_category=2, validation=0.2)
SMALL = ExecutionSettings(batch_tokens=128)


def test_half_precision(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    """Parameters in bfloat16, values and state in float32; what is not trained keeps the bits of the checkpoint."""
    execution = ExecutionSettings(batch_tokens=128, dtype="bfloat16")
    summary = finetune(llama, instruction_file, "layers:1", tmp_path / "out", FEW, execution)
    assert summary["bytes"]["parameters"] == 2 * summary["model"]["parameters"]
    before, after = leaves_of(llama), leaves_of(open_model(tmp_path / "out/model"))
    for path, one in before.items():
        assert (after[path] != one).any() == path.startswith("layers/1/"), path
    losses = [float(row["loss"]) for row in read_table(tmp_path / "out/steps.csv")]
    finetune(llama, instruction_file, "layers:1", tmp_path / "wide", FEW, SMALL)
    np.testing.assert_allclose(
        losses, [float(row["loss"]) for row in read_table(tmp_path / "wide/steps.csv")], rtol=0.02
    )


@pytest.mark.parametrize("train", ["all", "layers:1", "units:auroc:B", "lora:2"])
def test_what_comes_after_is_of_the_model_that_is_stored(train: str, instruction_file: Path, tmp_path: Path) -> None:
    """In bfloat16 most of a small change is lost: the next training begins where the tables say that this one ended."""
    half = convert(checkpoints.llama(tmp_path / "hf", dtype=torch.bfloat16), tmp_path / "half")
    run = None
    if train.startswith("units"):
        run = capture(half, sj.load_instructions(instruction_file), tmp_path / "run")
        sj.select(run, sj.SelectSettings(size=6, control_length=False))
    settings = replace(FEW, epochs=2, learning_rate=3e-4)
    finetune(half, instruction_file, train, tmp_path / "first", settings, SMALL, run=run)
    finetune(tmp_path / "first/model", instruction_file, "lora:1", tmp_path / "second", settings, SMALL)
    after = [float(row["after"]) for row in read_table(tmp_path / "first/evaluation_rows.csv")]
    begun = [float(row["before"]) for row in read_table(tmp_path / "second/evaluation_rows.csv")]
    np.testing.assert_allclose(after, begun, rtol=2e-6)
    table = read_table(tmp_path / "first/evaluation.csv")
    last = max(int(row["step"]) for row in table)
    trained = [float(row["nll"]) for row in table if int(row["step"]) == last and row["part"] == "validation"]
    stored = np.mean([float(row["after"]) for row in read_table(tmp_path / "first/evaluation_rows.csv")
                      if row["part"] == "validation"])  # fmt: skip
    assert abs(stored - trained[0]) > 1e-6
