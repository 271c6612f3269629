"""Effects of single units against transformers with that unit off."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.analysis.units import write_cards
from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.explore.explore import explore
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.units.names import unit_of
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.causal.references import reference_nll
from tests.synthetic_results import read_table

EXECUTION = ExecutionSettings(batch_tokens=256)
SETTINGS = ExploreSettings(top=1, examples=2, sample=2, words=0, neighbours=0, effects=2, bootstraps=9)


def switch_off(reference: Reference, run: sj.Run, unit: str) -> None:
    """The column of down_proj that a neuron writes with is 0; an expert's router logit is minus infinity."""
    group, (place, *within) = unit_of(unit, run.groups)
    mlp = reference.model.model.layers[group.layers[place]].mlp
    if group.name == "expert":
        gate = mlp.gate

        def forward(x: Any) -> Any:
            logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight)
            off = logits.index_fill(-1, torch.tensor(within), float("-inf"))
            weight, chosen = off.softmax(-1).topk(gate.top_k, -1)
            return logits, weight, chosen

        gate.forward = forward
        return
    down = {"mlp": lambda: mlp.down_proj.weight, "shared": lambda: mlp.shared_expert.down_proj.weight,
            "routed": lambda: mlp.experts.down_proj[within[0]]}[group.name]()  # fmt: skip
    with torch.no_grad():
        down[:, within[-1]] = 0


@pytest.mark.parametrize(("name", "half"), [("llama", "first"), ("moe", "all")])
def test_a_single_unit_off(
    name: str, half: str, instruction_file: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model: ModelDir = request.getfixturevalue(name)
    run = capture(model, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, sj.SelectSettings(size=6, expert_size=2, half=half, control_length=False))
    made = explore(model, run, "auroc", SETTINGS, EXECUTION)
    chose = units.origin["half"] or []
    eligible = [row for row in run.instructions if row["id"] not in chose]
    scored = [[row for row in eligible if row["category"] == category][:2] for category in run.categories]
    assert made["effects"] == {"responses": sum(map(len, scored)), "held_out": int(half != "all")}

    def losses(reference: Reference) -> np.ndarray:
        return np.asarray([reference_nll(reference, model, rows).mean() for rows in scored])

    source = request.getfixturevalue(f"hf_{name}")
    baseline, largest = losses(Reference(source)), 0.0
    for card in made["cards"]:
        off = Reference(source)
        switch_off(off, run, card["unit"])
        expected = losses(off) - baseline
        np.testing.assert_allclose(list(card["effect"].values()), expected, atol=2e-5)
        largest = max(largest, np.abs(expected).max())
    assert largest > 1e-4
    assert {card["group"] for card in made["cards"]} >= ({"expert"} if name == "moe" else {"mlp"})
    assert write_cards(run, "auroc", tmp_path / "out")["effects"] == made["effects"]
    row = read_table(tmp_path / "out/card_frequency.csv")[0]
    assert float(row["effect"]) == made["cards"][0]["effect"][row["category"]]


def test_effects_need_responses(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    """And cards without effects do not."""
    rows = sj.load_instructions(instruction_file)
    bare = [{**row, "response": None} for row in rows.rows]
    run = capture(llama, type(rows)("bare", bare, rows.categories), tmp_path / "run", execution=EXECUTION)
    sj.select(run, sj.SelectSettings(size=6, control_length=False))
    with pytest.raises(InputError, match="response"):
        explore(llama, run, "auroc", SETTINGS, EXECUTION)
    assert not (tmp_path / "run/explored").exists()
    made = explore(llama, run, "auroc", ExploreSettings(top=1, sample=2, bootstraps=9), EXECUTION)
    assert "effects" not in made
    assert "effect" not in made["cards"][0]


def test_an_expert_that_every_token_needs(instruction_file: Path, tmp_path: Path) -> None:
    source = checkpoints.qwen2_moe(tmp_path / "hf", num_experts=2, num_experts_per_tok=2)
    model = convert(source, tmp_path / "model")
    run = capture(model, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    sj.select(run, sj.SelectSettings("esft_gate", size=1))
    with pytest.raises(InputError, match="a token needs all 2 experts of a layer"):
        explore(model, run, "esft_gate", SETTINGS, EXECUTION)
