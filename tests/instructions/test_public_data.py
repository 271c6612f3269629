"""Real instructions of public data sets through both families: counts against forward hooks, sign by sign."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.units.groups import model_groups
from sparcom_jax.verify.reference import Reference
from tests import oracles
from tests.conftest import SHARED

pytestmark = pytest.mark.skipif(not SHARED.exists(), reason=f"public data sets are not at {SHARED}")


def lines(path: Path, field: str, count: int) -> list[str]:
    return [json.loads(line)[field] for line in path.read_text(encoding="utf-8").splitlines()[:count]]


@pytest.fixture(scope="module")
def public_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """220 instructions of four kinds."""
    with (SHARED / "banking77/test.csv").open(newline="", encoding="utf-8") as file:
        banking = [row["text"] for row in list(csv.DictReader(file))[:55]]
    texts = {
        "MATH": lines(SHARED / "math500/test.jsonl", "problem", 55),
        "QA": lines(SHARED / "nq_open/NQ-open.dev.jsonl", "question", 55),
        "GEN": lines(SHARED / "self-instruct/user_oriented_instructions.jsonl", "instruction", 55),
        "CLS": banking,
    }
    path = tmp_path_factory.mktemp("public") / "rows.jsonl"
    rows = [
        {"id": f"{category}-{index}", "category": category, "instruction": text}
        for category, of in texts.items()
        for index, text in enumerate(of)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(("name", "every"), [("llama", 1), ("moe", 5)])
def test_counts_of_real_instructions(
    name: str, every: int, public_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: ModelDir = request.getfixturevalue(name)
    instructions = sj.load_instructions(public_file)
    run = capture(model, instructions, tmp_path / "run", CaptureSettings())
    tokenizer = model.tokenizer()
    rows = range(0, len(instructions.rows), every)
    ids = [np.asarray(tokenizer(instructions.rows[row]["instruction"])["input_ids"]) for row in rows]
    layers = {group.name: list(group.layers) for group in model_groups(model.config)}
    experts = model.config.experts.count if model.config.experts else 0
    expected = oracles.capture_counts(Reference(request.getfixturevalue(f"hf_{name}")), ids, layers, experts, 0, "gate")
    tokens = sum(len(text) for text in ids)
    for array, counts in expected.items():
        mine: Any = run.read(array)[::every]
        if array != "routed/gate_sum":
            signs = tokens * counts[0].size
            assert np.abs(mine.astype(int) - counts).sum() <= 1e-5 * signs, array
