"""Families whose layers are unlike Llama's, through the capture, the model cut over two devices: counts as by hooks."""

from pathlib import Path

import numpy as np
import pytest

from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.instructions.rows import InstructionSet, load_instructions
from sparcom_jax.units.groups import model_groups
from sparcom_jax.verify.reference import Reference
from tests import checkpoints, oracles
from tests.families import CASES

TWO_SHARE = ExecutionSettings(placement="mesh:2", batch_tokens=512)
CUT = [("gemma3_text", "plain"), ("olmo2", "gqa"), ("gpt_neox", "parallel"), ("phi3", "window"), ("olmoe", "clip"),
       ("deepseek_v2", "groups"), ("gpt_oss", "plain")]  # fmt: skip


@pytest.mark.parametrize(("family", "case"), CUT)
def test_counts_equal_forward_hooks_on_a_mesh(family: str, case: str, instruction_file: Path, tmp_path: Path) -> None:
    directory = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][case])
    model = convert(directory, tmp_path / "model")
    instructions = load_instructions(instruction_file)
    few = InstructionSet(instructions.source, instructions.rows[:8], instructions.categories)
    run = capture(model, few, tmp_path / "run", execution=TWO_SHARE)
    ids = [np.asarray(model.tokenizer()(row["instruction"])["input_ids"]) for row in few.rows]
    layers = {group.name: list(group.layers) for group in model_groups(model.config)}
    experts = model.config.experts.count if model.config.experts else 0
    expected = oracles.capture_counts(Reference(directory), ids, layers, experts, 0, "gate")
    assert {f"{group}/positive_count" for group in layers} <= expected.keys()
    for array, counts in expected.items():
        mine = run.read(array)
        if array == "routed/gate_sum":
            np.testing.assert_allclose(mine, counts, atol=1e-4)
        else:
            flips = np.abs(mine.astype(int) - counts).sum()
            assert flips <= 1e-5 * counts.size * np.mean([len(text) for text in ids]), array
