"""Ablation against a transformers model whose units are really switched off."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.controls import frequency_bins, layer_bins, random_units
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.targets import cores
from sparcom_jax.causal.texts import texts_of
from sparcom_jax.causal.values import measure_means
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.report.page import report
from sparcom_jax.select.cores import core
from sparcom_jax.select.halves import in_half
from sparcom_jax.select.select import select
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.units import open_units, origin_of, write_units
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.verify.reference import Reference
from tests.causal.references import products, reference_nll, table

RHO = 0.3
SETTINGS = AblationSettings(draws=2, per_category=3, bootstraps=9, measured="all")
EXECUTION = ExecutionSettings(batch_tokens=512)


@pytest.fixture(scope="module")
def run(moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    path = tmp_path_factory.mktemp("ablate") / "run"
    run = capture(moe, sj.load_instructions(instruction_file), path, execution=EXECUTION)
    sj.identify(run, epsilon=0.1)
    return run


def switch_off(reference: Reference, sets: sj.Sets, category: int, target: str) -> None:
    """Zeroes what leaves each core neuron, or makes a core expert's router logit minus infinity."""
    layers = reference.model.model.layers
    with torch.no_grad():
        if target == "experts":
            for index, layer in enumerate(sets.groups["expert"].layers):
                core = torch.tensor(sets.core("expert", RHO)[category, index])
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
                core = torch.tensor(sets.core(group, RHO)[category, index])
                mlp = layers[layer].mlp
                if group == "routed":
                    for expert in range(core.shape[0]):
                        mlp.experts.down_proj[expert][:, core[expert]] = 0
                else:
                    (mlp if group == "mlp" else mlp.shared_expert).down_proj.weight[:, core] = 0


@pytest.mark.parametrize("target", ["neurons", "experts"])
def test_switched_off_units(target: str, moe: ModelDir, hf_moe: Path, run: sj.Run, tmp_path: Path) -> None:
    sets = sj.open_sets(run, "excess")
    summary = ablate(moe, run, core(sets, RHO), tmp_path / "out", SETTINGS, EXECUTION)
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
    rows = table(tmp_path / "out" / "ablation.csv")
    assert len(rows) == 2 * 3 * (1 + 2 * SETTINGS.draws) * 3
    assert {row["held_out"] for row in rows} == {"0"}
    assert {row["units_off"] for row in rows if (row["target"], row["category_off"]) == (target, "B")} == {
        str(summary["targets"][target]["units_off"][1])
    }


@pytest.mark.parametrize("how", ["mean", "mean_others", "scale"])
def test_neurons_at_their_mean_or_a_share_of_their_value(
    how: str, llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path
) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=30, control_length=False))
    settings = AblationSettings(how=how, alpha=0.5 if how == "scale" else 0.0, draws=1, per_category=2, bootstraps=2)
    summary = ablate(llama, run, units, tmp_path / "out", settings, EXECUTION)
    measured = {row["id"] for row in table(tmp_path / "out" / "instruction_effects.csv")}
    reference = Reference(hf_llama)
    beside = [row for row in run.instructions if row["id"] not in measured]
    by_category = {name: [products(reference, llama, row) for row in beside if row["category"] == name]
                   for name in run.categories}  # fmt: skip
    off = 1
    means = np.concatenate([values for name, of in by_category.items() for values in of
                            if how == "mean" or name != run.categories[off]]).mean(axis=0)  # fmt: skip
    mask = units.mask["mlp"][off]
    rows = [[row for row in run.instructions if row["id"] in measured and row["category"] == name]
            for name in run.categories]  # fmt: skip
    baseline = [reference_nll(reference, llama, of).mean() for of in rows]

    def replaced(layer: int) -> Any:
        def hook(_: Any, inputs: Any) -> Any:
            values = inputs[0].clone()
            if how == "scale":
                values[..., mask[layer]] *= 0.5
            else:
                values[..., mask[layer]] = torch.tensor(means[layer][mask[layer]])
            return (values,)

        return hook

    for index, layer in enumerate(reference.model.model.layers):
        layer.mlp.down_proj.register_forward_pre_hook(replaced(index))
    delta = [reference_nll(reference, llama, of).mean() - base for of, base in zip(rows, baseline, strict=True)]
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(summary["targets"]["neurons"]["delta"][off], delta, atol=2e-4)
    assert summary["settings"]["how"] == how


def test_means_of_experts_are_over_the_tokens_that_they_get(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    """Against a capture of prompts that hold the responses too."""
    rows = np.flatnonzero(run.category < 2)
    texts = texts_of(moe, run, rows)
    ended = TokenizedSet([ids[:-1] for ids in texts.ids], texts.first_counted, texts.end_counted - 1, {})
    placed = place_model(moe, make_placement("pmap", moe.config), "float32")
    means = measure_means(placed, ended, run.category[rows], 3, [str(row) for row in rows], 512, others=True)
    whole = [{**run.instructions[row], "instruction": f"{run.instructions[row]['instruction']}\n"
              f"{run.instructions[row]['response']}"} for row in rows]  # fmt: skip
    data = InstructionSet("whole", whole, run.categories[:2])
    settings = CaptureSettings(convention="product", value_statistics=True)
    captured = capture(moe, data, tmp_path / "run", settings, execution=EXECUTION)
    for group in ("mlp", "shared", "routed"):
        total = captured.read(f"{group}/value_sum").astype(float)
        tokens = captured.read("routed/selected_count")[..., None] if group == "routed" else None
        for category in range(2):
            one = captured.category == category
            count = tokens[one].sum(0) if tokens is not None else captured.token_count[one].sum()
            expected = total[one].sum(0) / np.maximum(count, 1)
            (found,) = np.moveaxis(means.of(1 - category)[group], 1, 0)  # those of the only other one
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_to_switch_off_is_refused(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    few = sj.identify(run, name="few", selector="frequency", epsilon=1.0, ties="exact", expert_epsilon=0.05)
    cores = few.core("expert", 1.0).reshape(3, -1).any(axis=1)
    assert few.size("expert").min() > 0
    assert not cores.all()
    empty = ", ".join(name for name, core in zip(run.categories, cores, strict=True) if not core)
    with pytest.raises(
        InputError, match=rf"set 'few' has no core experts of {empty} at rho 1\.0, so nothing to switch off"
    ):
        ablate(moe, run, core(few, 1.0), tmp_path / "out", AblationSettings(draws=1, per_category=1, measured="all"))
    assert not (tmp_path / "out").exists()


def test_random_units_are_as_many_in_every_layer_and_any_of_it_may_be_drawn() -> None:
    units = {"routed": np.random.default_rng(0).random((3, 4, 5)) < 0.3, "mlp": np.ones((2, 6), bool)}
    units["mlp"][1, 2:] = False
    drawn = list(random_units(units, layer_bins(units), 200, np.random.default_rng(1)))
    for one in drawn:
        np.testing.assert_array_equal(one["routed"].sum((1, 2)), units["routed"].sum((1, 2)))
        np.testing.assert_array_equal(one["mlp"].sum(1), [6, 2])
    share = np.mean([one["mlp"][1] for one in drawn], axis=0)  # the category's own units among them
    np.testing.assert_allclose(share, 2 / 6, atol=0.12)


def test_matched_random_units_are_of_the_same_deciles() -> None:
    random = np.random.default_rng(0)
    rate = {"mlp": random.random((2, 200)), "expert": random.random((2, 6))}
    bins = frequency_bins(rate)
    for group, values in rate.items():
        for layer, of in zip(values, bins[group], strict=True):
            assert (np.diff(of[np.argsort(layer)]) >= 0).all()
            sizes = np.bincount(of)
            assert len(sizes) == min(10, len(layer) // 2)
            assert sizes.max() - sizes.min() <= 1
    units = {"mlp": rate["mlp"] > np.quantile(rate["mlp"], 0.85), "expert": np.eye(2, 6, dtype=bool)}
    for drawn in random_units(units, bins, 5, random):
        for group, mask in units.items():
            for layer in range(2):
                of = bins[group][layer]
                np.testing.assert_array_equal(np.bincount(of[drawn[group][layer]], minlength=10),
                                              np.bincount(of[mask[layer]], minlength=10))  # fmt: skip
        assert abs(rate["mlp"][drawn["mlp"]].mean() - rate["mlp"][units["mlp"]].mean()) < 0.02


def test_units_are_measured_on_the_half_that_did_not_choose_them(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    (units,) = select(run, SelectSettings(size=5, expert_size=1, control_length=False))
    out, how = tmp_path / "out", replace(SETTINGS, measured="held_out", per_category=0)
    summary = ablate(moe, run, units, out, how, EXECUTION)
    rows = table(out / "instruction_effects.csv")
    measured = {row["id"] for row in rows}
    assert measured.isdisjoint(units.origin["half"])
    assert measured | {*units.origin["half"]} == {row["id"] for row in run.instructions}
    for name in {*summary["tables"]} - {"doses.csv", "sufficiency.csv"}:
        assert {row["held_out"] for row in table(out / name)} == {"1"}
    for target, found in summary["targets"].items():
        for off, name in enumerate(run.categories):
            for index, other in enumerate(run.categories):
                cell = target, name, other
                deltas = [float(row["delta"]) for row in rows
                          if (row["target"], row["category_off"], row["category"]) == cell]  # fmt: skip
                assert found["delta"][off][index] == pytest.approx(np.mean(deltas), abs=1e-6)
            own = found["delta"][off][off]
            rest = [value for index, value in enumerate(found["delta"][off]) if index != off]
            assert found["selectivity"][off] == pytest.approx(own - np.mean(rest))
        for control in found["controls"].values():
            assert control["smallest_p"] == pytest.approx(2 / 3)
    chosen = ablate(moe, run, units, tmp_path / "chosen", replace(how, measured="chosen"), EXECUTION)
    assert chosen["baseline"] != summary["baseline"]
    assert {row["held_out"] for row in table(tmp_path / "chosen" / "effects.csv")} == {"0"}
    everywhere = core(sj.open_sets(run, "excess"), RHO)
    with pytest.raises(InputError, match="the units were chosen by all instructions, so none is held out"):
        ablate(moe, run, everywhere, tmp_path / "none", how, EXECUTION)


def test_cores_of_a_set_are_chosen_by_half(run: sj.Run) -> None:
    sets = sj.open_sets(run, "excess")
    halved = cores(sets, AblationSettings(rho=RHO, seed=4))
    chosen = {row["id"] for row, first in zip(run.instructions, in_half(run, "first", 4), strict=True) if first}
    assert {*halved.origin["half"]} == chosen
    assert cores(sets, replace(SETTINGS, rho=RHO)).digest == core(sets, RHO).digest


def test_bad_input(moe: ModelDir, llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path) -> None:
    units = core(sj.open_sets(run, "excess"), RHO)
    with pytest.raises(InputError, match="was captured from another model"):
        ablate(llama, run, units, tmp_path / "out")
    for settings, message in (
        (AblationSettings(how="some"), "how 'some' is not known; known: zero, scale, mean, mean_others, resample"),
        (AblationSettings(alpha=0.5), "alpha 0.5 has no effect with how zero; leave it out"),
        (AblationSettings(how="scale", alpha=float("nan")), "alpha must be finite, got nan"),
        (AblationSettings(rho=0.0), r"rho must be within \(0, 1\], got 0\.0"),
        (AblationSettings(draws=0), "draws 0 must be positive and per_category 0 not negative"),
        (AblationSettings(per_category=-1), "draws 40 must be positive and per_category -1 not negative"),
        (AblationSettings(measured="some"), "measured 'some' is not known; known: held_out, chosen, all"),
        (AblationSettings(bootstraps=0), "bootstraps must be positive, got 0"),
        (AblationSettings(seed=-1), "seed must not be negative, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            ablate(moe, run, units, tmp_path / "out", settings)
    with pytest.raises(InputError, match=r"execution\.batch_tokens must be positive, got 0"):
        ablate(moe, run, units, tmp_path / "out", execution=ExecutionSettings(batch_tokens=0))
    everything = sj.identify(run, name="all", selector="frequency", epsilon=1.0, expert_epsilon=1.0)
    with pytest.raises(
        InputError, match="the core experts of A leave 0 experts in layer 1, but a token needs 2; use a"
    ):
        ablate(moe, run, core(everything, 0.5), tmp_path / "out", SETTINGS)
    windowed = capture(moe, sj.load_instructions(instruction_file), tmp_path / "run", CaptureSettings(count_window=3))
    with pytest.raises(InputError, match="the units were chosen by another run"):
        ablate(moe, windowed, units, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def selected(run: sj.Run, groups: tuple[str, ...], *, count: int = 5) -> UnitSet:
    """The first units of each group, the same for each category."""
    score = {name: np.zeros((3, *run.groups[name].shape), np.float32) for name in groups}
    mask = {name: one.astype(bool) for name, one in score.items()}
    for one in mask.values():
        one.reshape(3, -1)[:, :count] = True
    origin = origin_of(run, "first", size=count)
    return UnitSet(run.categories, {name: run.groups[name] for name in groups}, score, mask, origin)


@pytest.mark.parametrize("groups", [("mlp", "routed"), ("expert",)], ids=["neurons", "experts"])
def test_stored_units(groups: tuple[str, ...], moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    """Of units in some groups only, there is the one target, and the summary names them."""
    write_units(run, "mine", selected(run, groups))
    units = open_units(run, "mine")
    summary = ablate(moe, run, units, tmp_path / "out", SETTINGS, EXECUTION)
    (target,) = summary["targets"]
    assert target == ("experts" if groups == ("expert",) else "neurons")
    assert summary["targets"][target]["units_off"] == [5 * len(groups)] * 3
    assert "set" not in summary
    assert "rho" not in summary["settings"]
    assert summary["units"] == {"run": run.address, "name": "mine", "digest": units.digest, **units.origin}
    assert np.abs(summary["targets"][target]["delta"]).max() > 1e-3
    assert {row["kind"] for row in table(tmp_path / "out" / "ablation.csv")} == {"first", "random", "random_matched"}
    assert report(tmp_path / "out", tmp_path / "report.html").exists()


def test_stored_cores_are_the_cores_of_the_set(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    """What is switched off does not depend on where the units lay; what is told of them does."""
    units = core(sj.open_sets(run, "excess"), RHO)
    write_units(run, "cores", units)
    direct, stored = (
        ablate(moe, run, one, tmp_path / name, SETTINGS, EXECUTION)
        for name, one in (("direct", units), ("stored", open_units(run, "cores")))
    )
    assert direct.pop("set") == stored["units"]["set"]
    assert stored.pop("units")["name"] == "cores"
    assert direct == stored
    for name in direct["tables"]:
        assert (tmp_path / "direct" / name).read_bytes() == (tmp_path / "stored" / name).read_bytes()


def test_a_category_without_stored_units_is_refused(moe: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    units = selected(run, ("mlp", "expert"))
    units.mask["expert"][1] = False
    write_units(run, "some", units)
    with pytest.raises(InputError, match="units 'some' have no experts of B, so nothing to switch off; choose more"):
        ablate(moe, run, open_units(run, "some"), tmp_path / "out", SETTINGS, EXECUTION)
    write_units(run, "many", selected(run, ("expert",), count=7))
    with pytest.raises(InputError, match="the first experts of A leave 1 experts in layer 1, but a token needs 2; use"):
        ablate(moe, run, open_units(run, "many"), tmp_path / "out", SETTINGS, EXECUTION)
    assert not (tmp_path / "out").exists()


def test_half_precision_follows_full_precision(
    moe: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    """Capture and ablation in bfloat16: the arithmetic stays in it, and the numbers stay close."""
    instructions = sj.load_instructions(instruction_file)
    few = replace(instructions, rows=instructions.rows[1:10])
    half = capture(moe, few, tmp_path / "run", execution=ExecutionSettings(dtype="bfloat16"))
    assert half.manifest.dtype == "bfloat16"
    for group in ("mlp", "shared", "routed"):
        count = run.read(f"{group}/positive_count")[1:10].astype(int)
        assert np.abs(half.read(f"{group}/positive_count") - count).sum() < 0.05 * count.sum()
    sj.identify(half, epsilon=0.1)
    units = core(sj.open_sets(half, "excess"), RHO)
    settings = AblationSettings(draws=1, per_category=1, measured="all")
    rounded, full = (
        ablate(moe, half, units, tmp_path / dtype, settings, ExecutionSettings(dtype=dtype))["baseline"]
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
        units = core(sj.open_sets(sj.open_run(copy), "excess"), RHO)
        with pytest.raises(InputError, match=message):
            ablate(moe, sj.open_run(copy), units, tmp_path / "out", SETTINGS)
