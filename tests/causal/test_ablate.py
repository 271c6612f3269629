"""Ablation against a transformers model whose units are really switched off."""

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.engine import capture
from sparcom_jax.causal.ablate import _random_units, ablate
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.verify.reference import Reference

SETTINGS, EXECUTION = AblationSettings(draws=2, rho=0.3, per_category=3), ExecutionSettings(batch_tokens=512)


@pytest.fixture(scope="module")
def run(moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    path = tmp_path_factory.mktemp("ablate") / "run"
    run = capture(moe, sj.load_instructions(instruction_file), path, execution=EXECUTION)
    sj.identify(run, epsilon=0.1)
    return run


def reference_nll(reference: Reference, model: ModelDir, rows: list[dict[str, Any]]) -> np.ndarray:
    tokenizer, losses = model.tokenizer(), []
    for row in rows:
        prompt = tokenizer(row["instruction"])["input_ids"]
        response = tokenizer("\n" + row["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
        logits = reference.run(np.asarray(prompt + response), {})["logits"]
        log_probability = torch.log_softmax(torch.tensor(logits), -1).numpy()
        at = np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)
        losses.append(-log_probability[at, response].mean())
    return np.asarray(losses)


def switch_off(reference: Reference, sets: sj.Sets, category: int, target: str) -> None:
    """Zeroes what leaves each core neuron, or makes a core expert's router logit minus infinity."""
    layers = reference.model.model.layers
    with torch.no_grad():
        if target == "experts":
            for index, layer in enumerate(sets.groups["expert"].layers):
                core = torch.tensor(sets.core("expert", SETTINGS.rho)[category, index])
                gate = layers[layer].mlp.gate

                def forward(x: Any, gate: Any = gate, core: Any = core) -> Any:
                    logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight)
                    probability = logits.masked_fill(core, float("-inf")).softmax(-1)
                    weight, chosen = probability.topk(gate.top_k, -1)
                    return logits, weight, chosen

                gate.forward = forward
            return
        for group in ("mlp", "shared", "routed"):
            for index, layer in enumerate(sets.groups[group].layers):
                core = torch.tensor(sets.core(group, SETTINGS.rho)[category, index])
                mlp = layers[layer].mlp
                if group == "routed":
                    for expert in range(core.shape[0]):
                        mlp.experts.down_proj[expert][:, core[expert]] = 0
                else:
                    (mlp if group == "mlp" else mlp.shared_expert).down_proj.weight[:, core] = 0


@pytest.mark.parametrize("target", ["neurons", "experts"])
def test_switched_off_units(target: str, moe: ModelDir, hf_moe: Path, run: sj.Run, tmp_path: Path) -> None:
    summary = ablate(moe, run, tmp_path / "out", SETTINGS, EXECUTION)
    sets = sj.open_sets(run, "frequency")
    scored = [[row for row in run.instructions if row["category"] == name][:3] for name in run.categories]
    plain = Reference(hf_moe)
    baseline = [reference_nll(plain, moe, rows).mean() for rows in scored]
    np.testing.assert_allclose(summary["baseline"], baseline, rtol=1e-4)
    off = Reference(hf_moe)
    switch_off(off, sets, 1, target)
    delta = [reference_nll(off, moe, rows).mean() - base for rows, base in zip(scored, baseline, strict=True)]
    assert summary["targets"][target]["units_off"][1] > 0
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(summary["targets"][target]["delta"][1], delta, atol=2e-4)
    with (tmp_path / "out" / "ablation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 3 * (1 + SETTINGS.draws) * 3
    assert {row["units_off"] for row in rows if (row["target"], row["category_off"]) == (target, "B")} == {
        str(summary["targets"][target]["units_off"][1])
    }


def test_nothing_to_switch_off_is_refused(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    few = sj.identify(run, name="few", epsilon=1.0, ties="exact", expert_epsilon=0.05)
    cores = few.core("expert", 1.0).reshape(3, -1).any(axis=1)
    assert few.size("expert").min() > 0
    assert not cores.all()
    empty = ", ".join(name for name, core in zip(run.categories, cores, strict=True) if not core)
    with pytest.raises(
        InputError, match=rf"set 'few' has no core experts of {empty} at rho 1\.0, so nothing to switch off"
    ):
        ablate(moe, run, tmp_path / "out", AblationSettings(rho=1.0, draws=1), set_name="few")
    sj.identify(run, name="none", epsilon=0.5, expert_epsilon=1e-9, ties="drop")
    with pytest.raises(InputError, match=r"set 'none': S\(i\) has no unit of expert for 48 of 48 instructions \(A 16"):
        ablate(moe, run, tmp_path / "out", AblationSettings(draws=1), set_name="none")
    assert not (tmp_path / "out").exists()


def test_random_units_match_the_core_layer_by_layer() -> None:
    core = {"routed": np.random.default_rng(0).random((3, 4, 5)) < 0.3, "mlp": np.ones((2, 6), bool)}
    core["mlp"][1, 2:] = False
    first, second = _random_units(core, 2, np.random.default_rng(1))
    for drawn in (first, second):
        np.testing.assert_array_equal(drawn["routed"].sum((1, 2)), core["routed"].sum((1, 2)))
        assert not (drawn["routed"] & core["routed"]).any()
        np.testing.assert_array_equal(drawn["mlp"].sum(1), [6, 2])
        assert not (drawn["mlp"][1] & core["mlp"][1]).any()
    assert (first["routed"] != second["routed"]).any()


def test_bad_input(moe: ModelDir, llama: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="was captured from another model"):
        ablate(llama, run, tmp_path / "out")
    for settings, message in (
        (AblationSettings(rho=0.0), r"rho must be within \(0, 1\], got 0\.0"),
        (AblationSettings(draws=0), "draws 0 must be positive and per_category 0 not negative"),
        (AblationSettings(per_category=-1), "draws 20 must be positive and per_category -1 not negative"),
        (AblationSettings(seed=-1), "seed must not be negative, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            ablate(moe, run, tmp_path / "out", settings)
    with pytest.raises(InputError, match=r"execution\.batch_tokens must be positive, got 0"):
        ablate(moe, run, tmp_path / "out", execution=ExecutionSettings(batch_tokens=0))
    with pytest.raises(InputError, match="no set 'other'"):
        ablate(moe, run, tmp_path / "out", set_name="other")
    sj.identify(run, name="all", epsilon=1.0, expert_epsilon=1.0)
    with pytest.raises(InputError, match="leave 0 experts in layer 1, but a token needs 2"):
        ablate(moe, run, tmp_path / "out", set_name="all")
    assert not (tmp_path / "out").exists()


def test_half_precision_follows_full_precision(
    moe: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    """Capture and ablation in bfloat16: the arithmetic stays in it, and the numbers stay close."""
    instructions = sj.load_instructions(instruction_file)
    few = dataclasses.replace(instructions, rows=instructions.rows[1:10])
    half = capture(moe, few, tmp_path / "run", execution=ExecutionSettings(dtype="bfloat16"))
    assert half.attributes["dtype"] == "bfloat16"
    for group in ("mlp", "shared", "routed"):
        count = run.read(f"{group}/positive_count")[1:10].astype(int)
        assert np.abs(half.read(f"{group}/positive_count") - count).sum() < 0.05 * count.sum()
    sj.identify(half, epsilon=0.1)
    settings = AblationSettings(draws=1, rho=0.3, per_category=1)
    rounded, full = (
        ablate(moe, half, tmp_path / dtype, settings, ExecutionSettings(dtype=dtype))["baseline"]
        for dtype in ("bfloat16", "float32")
    )
    np.testing.assert_allclose(rounded, full, rtol=0.05)


def test_another_tokenizer_or_rendering_is_refused(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    """What is scored must be what was captured: a template that states the date reads otherwise tomorrow."""
    for section, field, message in (
        ("capture", "template_digest", "was captured with another rendering of template 'none'"),
        ("tokenizer", "digest", "was captured with another tokenizer than that of"),
    ):
        copy = Path(shutil.copytree(run.location, tmp_path / section))
        manifest = json.loads((copy / "zarr.json").read_text())
        manifest["attributes"][section][field] = "another"
        (copy / "zarr.json").write_text(json.dumps(manifest))
        with pytest.raises(InputError, match=message):
            ablate(moe, sj.open_run(copy), tmp_path / "out")
