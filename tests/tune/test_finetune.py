"""Fine-tuning from beginning to end: against torch's AdamW, what is written, what goes on, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.export import export
from sparcom_jax.convert.model_dir import ModelDir, convert, open_model
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.select.halves import deal
from sparcom_jax.tune.finetune import finetune
from sparcom_jax.tune.settings import Train, TuneSettings, parse_train
from sparcom_jax.tune.step import Steps, learning_rates
from sparcom_jax.tune.texts import schedule, tune_texts
from sparcom_jax.tune.trainer import Trainer
from sparcom_jax.units.file import read_safetensors
from sparcom_jax.verify.reference import Reference
from tests.parameters import leaves_of
from tests.synthetic_results import read_table

FEW = TuneSettings(category="B", epochs=4, learning_rate=3e-3, per_category=2, validation=0.2)
SMALL = ExecutionSettings(batch_tokens=128)


@pytest.fixture(scope="module")
def run(llama: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path_factory.mktemp("run") / "run")
    sj.select(run, sj.SelectSettings(size=6, control_length=False))
    return run


@pytest.fixture(scope="module")
def tuned(llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("tuned") / "units"
    finetune(llama, instruction_file, "units:auroc:B", output, FEW, SMALL, run=run)
    return output


def test_steps_are_those_of_torch(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    """The same losses and norms, step by step, by transformers, torch's AdamW and its clipping."""
    settings = TuneSettings(epochs=2, learning_rate=2e-3, weight_decay=0.1, clip=0.5, accumulate=2, half="all",
                            validation=0.0)  # fmt: skip
    finetune(llama, instruction_file, "all", tmp_path / "all", settings, SMALL)
    texts = tune_texts(llama, sj.load_instructions(instruction_file), settings)
    plan = schedule(texts, settings, 128, 4)
    reference = AutoModelForCausalLM.from_pretrained(hf_llama, dtype=torch.float32, attn_implementation="eager")
    decayed = [one for one in reference.parameters() if one.ndim >= 2]
    others = [one for one in reference.parameters() if one.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    rates = learning_rates(settings, len(plan.steps))
    written = read_table(tmp_path / "all/steps.csv")
    assert len(written) == len(plan.steps) == 2 * plan.epoch_ends[0]
    for step, (bins, row) in enumerate(zip(plan.steps, written, strict=True)):
        total, tokens = torch.zeros(()), 0
        for text in (text for one in bins for text in one.texts):
            ids = torch.tensor(texts.texts.ids[text]).long()
            first = int(texts.texts.first_counted[text])
            logits = reference(input_ids=ids[None]).logits[0]
            total = total + torch.nn.functional.cross_entropy(logits[first - 1 : -1], ids[first:], reduction="sum")
            tokens += len(ids) - first
        optimizer.zero_grad()
        (total / tokens).backward()
        norm = torch.nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = float(rates(step))
        optimizer.step()
        assert int(row["tokens"]) == tokens
        np.testing.assert_allclose(float(row["loss"]), float(total.detach()) / tokens, rtol=1e-4)
        np.testing.assert_allclose(float(row["gradient_norm"]), float(norm), rtol=1e-3)
        np.testing.assert_allclose(float(row["learning_rate"]), float(rates(step)), rtol=1e-6)
    text = texts.texts.ids[0]
    mine = Reference(export(tmp_path / "all/model", tmp_path / "hf")).run(text, {})["logits"]
    theirs = reference(input_ids=torch.tensor(text)[None].long()).logits[0].detach().numpy()
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-3 * np.abs(theirs).max())


def test_only_the_units_have_changed(tuned: Path, llama: ModelDir, run: sj.Run, tmp_path: Path) -> None:
    model = open_model(tuned / "model")
    before, after = leaves_of(llama), leaves_of(model)
    units = sj.open_units(run, "auroc").mask["mlp"][1]
    for path, one in before.items():
        changed = after[path] != one
        _, layer, *within = path.split("/") if path.startswith("layers/") else ("", "0", path)
        if within[0] == "mlp" and units[int(layer)].any():
            rows = changed.all(axis=0) if within[1] in ("gate", "up") else changed.all(axis=1)
            np.testing.assert_array_equal(rows, units[int(layer)])
            assert changed.sum() == rows.sum() * one.shape[0 if within[1] in ("gate", "up") else 1]
        else:
            assert not changed.any(), path
    again = convert(export(model, tmp_path / "hf"), tmp_path / "again")
    assert again.digest == model.digest != llama.digest
    assert not (tuned / "training").exists()
    np.testing.assert_array_equal(read_safetensors(tuned / "trained.safetensors").mask["mlp"][0], units)
    summary = json.loads((tuned / "summary.json").read_text())
    count = 3 * 6 * llama.config.width
    assert summary["train"] | {"digest": 0} == {
        "kind": "units", "name": "units:auroc:B", "run": run.address, "selector": "auroc", "category": "B", "digest": 0,
        "neurons": 6, "parameters": count,
    }  # fmt: skip
    assert summary["bytes"]["trained"] == 4 * count
    assert 8 * count <= summary["bytes"]["optimizer"] <= 8 * count + 16
    assert summary["held_out"] == 1


def test_what_is_learnt_from_and_what_is_evaluated(
    tuned: Path, llama: ModelDir, run: sj.Run, instruction_file: Path
) -> None:
    instructions = sj.load_instructions(instruction_file)
    texts = tune_texts(llama, instructions, FEW)
    half = {run.instructions[row]["id"] for row in np.flatnonzero(deal(run.category, run.token_count, run.categories,
                                                                       "first", 0, ""))}  # fmt: skip
    names = np.asarray(texts.names)
    assert {*names[texts.learnt], *names[texts.parts["validation"]]} == {
        row["id"] for row in instructions.rows if row["category"] == "B" and row["id"] in half
    }
    assert not {*names[texts.learnt]} & {*names[texts.parts["validation"]]}
    assert not half & {*names[texts.parts["held_out"]]}
    assert np.bincount(texts.category[texts.parts["held_out"]]).tolist() == [2, 2, 2]
    rows = read_table(tuned / "evaluation_rows.csv")
    assert [row["id"] for row in rows] == [
        texts.names[row] for part in ("validation", "held_out") for row in texts.parts[part]
    ]
    last = max(int(row["step"]) for row in read_table(tuned / "evaluation.csv"))
    for row in read_table(tuned / "evaluation.csv"):
        of = [one for one in rows if (one["part"], one["category"]) == (row["part"], row["category"])]
        if int(row["step"]) in (0, last):
            mean = np.mean([float(one["before" if row["step"] == "0" else "after"]) for one in of])
            np.testing.assert_allclose(float(row["nll"]), mean, rtol=1e-6)
    # The likelihood is that of `ablate`: what transformers gives the response.
    reference, first = Reference(Path(llama.manifest["source"])), texts.parts["held_out"][0]
    ids, start = texts.texts.ids[first], int(texts.texts.first_counted[first])
    logits = torch.tensor(reference.run(ids, {})["logits"])[start - 1 : -1]
    wanted = torch.nn.functional.cross_entropy(logits, torch.tensor(ids[start:]).long())
    np.testing.assert_allclose(
        float(next(row for row in rows if row["part"] == "held_out")["before"]), wanted, rtol=1e-4
    )


def test_going_on_comes_to_the_same_bits(
    tuned: Path, llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, dies = Trainer._step, {"at": 1}

    def mortal(self: Trainer, training: Any) -> Any:
        if self.history["step"] == dies["at"]:
            raise KeyboardInterrupt
        return step(self, training)

    monkeypatch.setattr(Trainer, "_step", mortal)
    settings = replace(FEW, save_every=1)
    given: Any = (llama, instruction_file, "units:auroc:B", tmp_path / "out", settings, SMALL)
    for at in (1, 3):
        dies["at"] = at
        with pytest.raises(KeyboardInterrupt):
            finetune(*given, run=run)
        assert not (tmp_path / "out/summary.json").exists()
    with pytest.raises(InputError, match=r"was begun otherwise \(settings\.epochs 4, now 3\); choose another --output"):
        finetune(*given[:4], replace(settings, epochs=3), SMALL, run=run)
    dies["at"] = -1
    finetune(*given, run=run)
    for name in ("steps.csv", "evaluation.csv", "evaluation_rows.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tuned / name).read_bytes()
    assert open_model(tmp_path / "out/model").digest == open_model(tuned / "model").digest
    assert finetune(*given, run=run) == json.loads((tmp_path / "out/summary.json").read_text())
    (tmp_path / "out/begun.json").unlink()
    with pytest.raises(InputError, match=r"out/summary\.json: exists already; choose another --output or delete it"):
        finetune(*given, run=run)


def test_a_kill_before_the_checkpoints_are_deleted(
    llama: ModelDir, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(path: Path, ignore_errors: bool = False) -> None:
        if path.name == "training":
            raise KeyboardInterrupt

    settings = replace(FEW, epochs=1, keep_model=False)
    given: Any = (llama, instruction_file, "lora:1", tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("sparcom_jax.tune.finetune.shutil.rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            finetune(*given, settings, SMALL)
    assert (tmp_path / "out/training").exists()
    with pytest.raises(InputError, match="was begun otherwise"):
        finetune(*given, replace(settings, epochs=2), SMALL)
    assert finetune(*given, settings, SMALL) == json.loads((tmp_path / "out/summary.json").read_text())
    assert not (tmp_path / "out/training").exists()


@pytest.mark.parametrize("name", ["model", "adapter", "training"])
def test_what_it_did_not_make_it_does_not_delete(
    name: str, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    (tmp_path / "out" / name / "mine").write_text("")
    with pytest.raises(InputError, match=rf"out/{name}: exists already"):
        finetune(llama, instruction_file, "all", tmp_path / "out", FEW, SMALL)
    assert [path.name for path in (tmp_path / "out").rglob("*")] == [name, "mine"]


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Setting `save_embedding_layers`")
def test_an_adapter_is_what_peft_makes_of_it(
    hf_llama: Path, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    from peft import PeftModel

    settings = TuneSettings(epochs=2, learning_rate=0.02, lora_alpha=6.0, validation=0.0, per_category=1)
    finetune(llama, instruction_file, "lora:3", tmp_path / "lora", settings, SMALL)
    base = AutoModelForCausalLM.from_pretrained(hf_llama, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, tmp_path / "lora/adapter")
    text = np.arange(3, 43, dtype=np.int32)
    theirs = adapted(input_ids=torch.tensor(text)[None].long()).logits[0].detach().numpy()
    tuned = export(tmp_path / "lora/model", tmp_path / "hf")
    mine = Reference(tuned).run(text, {})["logits"]
    plain = Reference(hf_llama).run(text, {})["logits"]
    assert np.abs(mine - plain).max() > 0.05 * np.abs(plain).max()
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())
    # And what this package makes of it.
    merged = convert(hf_llama, tmp_path / "merged", adapter=tmp_path / "lora/adapter")
    for path, one in leaves_of(merged).items():
        np.testing.assert_allclose(one, leaves_of(open_model(tmp_path / "lora/model"))[path], rtol=0, atol=1e-6)


def test_the_best_is_kept_and_training_stops_early(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(epochs=30, learning_rate=0.05, evaluate_every=1, patience=3, validation=0.3, per_category=1,
                            schedule="constant", warmup=0.0)  # fmt: skip
    summary = finetune(llama, instruction_file, "all", tmp_path / "all", settings, SMALL)
    assert summary["steps"] == summary["kept"] + 3 < summary["of_steps"]
    rows = [row for row in read_table(tmp_path / "all/evaluation.csv") if row["part"] == "validation"]
    steps = sorted({int(row["step"]) for row in rows})
    assert steps == list(range(summary["steps"] + 1))
    after = [
        float(row["after"]) for row in read_table(tmp_path / "all/evaluation_rows.csv") if row["part"] == "validation"
    ]

    def loss(step: int) -> float:
        of = [row for row in rows if int(row["step"]) == step]
        weights = [int(row["instructions"]) for row in of]
        return float(np.average([float(row["nll"]) for row in of], weights=weights))

    assert min(steps, key=loss) == summary["kept"]
    np.testing.assert_allclose(loss(summary["kept"]), np.mean(after), rtol=1e-6)


def test_devices_that_share_a_model_take_the_same_steps(
    tuned: Path, llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    """As many batches a step: four devices with one each, or four one after another on all of them together."""
    mesh = ExecutionSettings(batch_tokens=128, placement="mesh")
    finetune(llama, instruction_file, "units:auroc:B", tmp_path / "out", replace(FEW, accumulate=4), mesh, run=run)
    apart, shared = (read_table(path / "steps.csv") for path in (tuned, tmp_path / "out"))
    assert [row["tokens"] for row in apart] == [row["tokens"] for row in shared]
    for name in ("loss", "gradient_norm"):
        mine, theirs = ([float(row[name]) for row in rows] for rows in (shared, apart))
        np.testing.assert_allclose(mine, theirs, rtol=1e-4)
    before, after = leaves_of(open_model(tuned / "model")), leaves_of(open_model(tmp_path / "out/model"))
    for path, one in before.items():
        np.testing.assert_allclose(after[path], one, rtol=0, atol=2e-3 * np.abs(one).max(), err_msg=path)


@pytest.mark.parametrize("norm", [False, True])
def test_what_is_not_finite_keeps_the_last_good_state(
    norm: bool, llama: ModelDir, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the loss or the gradient alone ceases to be finite, and whether a checkpoint is there already or not."""
    add = Steps.add

    def spoiled(self: Steps, shape: Any, kept: Any, values: Any, sums: Any, batches: Any) -> Any:
        made, fault = add(self, shape, kept, values, sums, batches)
        if spoiled.count == 2:  # type: ignore[attr-defined]
            made = (
                made._replace(gradient=jax.tree.map(lambda one: one * np.nan, made.gradient))
                if norm
                else (made._replace(nll=made.nll * np.nan))
            )
        spoiled.count += 1  # type: ignore[attr-defined]
        return made, fault

    for save_every in (1, 100):
        spoiled.count = 0  # type: ignore[attr-defined]
        monkeypatch.setattr(Steps, "add", spoiled)
        output = tmp_path / str(save_every)
        given: Any = (llama, instruction_file, "lora:1", output, replace(FEW, save_every=save_every), SMALL)
        with pytest.raises(
            InputError, match=r"diverged in step 3: the .* not finite; .*; the state after step 2 is kept"
        ):
            finetune(*given)
        assert [path.name for path in (output / "training").iterdir() if path.name.isdigit()] == ["2"]
        # Nothing is lost: where the cause is gone, the same command goes on from there.
        monkeypatch.setattr(Steps, "add", add)
        assert finetune(*given)["steps"] == 4


def test_a_rate_that_diverges(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    settings = TuneSettings(epochs=20, learning_rate=1e30, warmup=0.0, clip=0.0, per_category=1, save_every=1)
    with pytest.raises(InputError, match=r"diverged in step \d+: .*; take a smaller learning_rate than 1e\+30"):
        finetune(llama, instruction_file, "all", tmp_path / "out", settings, SMALL)
    assert not (tmp_path / "out/summary.json").exists()
    assert not (tmp_path / "out/model").exists()
    assert (tmp_path / "out/training").exists()


def test_what_is_trained_is_named(llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path) -> None:
    assert parse_train("layers:0,2-4") == Train("layers:0,2-4", "layers", layers=(0, 2, 3, 4))
    assert parse_train("units:a:b/c:MATH") == Train("units:a:b/c:MATH", "units", "a:b/c", "MATH")
    for text in ("units", "units:auroc", "layers:", "layers:4-2", "lora:0", "lora", "all:1", "everything"):
        with pytest.raises(InputError, match=f"train {text!r} is not known; known: units:NAME:CATEGORY"):
            parse_train(text)
    file = tmp_path / "units.safetensors"
    shutil.copy(run.location + "/units/auroc.safetensors", file)
    for train, of, message in (
        ("units:auroc:Z", run, "units 'auroc' have no category 'Z'; they are of A, B, C"),
        ("units:other:B", run, "no units 'other'; the run has auroc"),
        ("experts:auroc:B", run, "units 'auroc' have no experts of B, so there is nothing to train"),
        ("units:none.safetensors:B", None, "none.safetensors: no such file; without --run, units are a safetensors"),
        (f"random:{file}:B", None, "--train=random needs --run"),
        ("layers:1,7", None, "has 3 layers, from 0; there is no layer 7"),
        ("lora:2", run, "--run has no effect with --train=lora, which names no units"),
    ):
        with pytest.raises(InputError, match=message):
            finetune(llama, instruction_file, train, tmp_path / "out", FEW, SMALL, run=of)
    assert not (tmp_path / "out").exists()


def test_random_units_are_others_of_the_same_layers(
    llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    finetune(llama, instruction_file, "random:auroc:B", tmp_path / "out", FEW, SMALL, run=run)
    drawn = read_safetensors(tmp_path / "out/trained.safetensors").mask["mlp"][0]
    units = sj.open_units(run, "auroc").mask["mlp"][1]
    np.testing.assert_array_equal(drawn.sum(axis=1), units.sum(axis=1))
    assert (drawn != units).any()


def test_units_of_another_model_or_chosen_by_others(
    llama: ModelDir, moe: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="was captured from another model than"):
        finetune(moe, instruction_file, "units:auroc:B", tmp_path / "out", FEW, SMALL, run=run)
    file = Path(run.location) / "units/auroc.safetensors"
    with pytest.raises(InputError, match="are of another model: mlp is"):
        finetune(moe, instruction_file, f"units:{file}:B", tmp_path / "out", FEW, SMALL)
    summary = finetune(llama, instruction_file, f"units:{file}:B", tmp_path / "second",
                       TuneSettings(category="B", half="second", epochs=1, per_category=2), SMALL)  # fmt: skip
    assert summary["held_out"] == 0
    # Of units whose choosers are not known, and of such as all instructions chose, nothing is held out.
    sj.select(run, sj.SelectSettings(selector="difference", half="all", size=6, control_length=False))
    everyone = finetune(llama, instruction_file, "units:difference:B", tmp_path / "all", FEW, SMALL, run=run)
    assert everyone["held_out"] == 0
    trained = tmp_path / "second/trained.safetensors"
    assert read_safetensors(trained).origin["half"] == sj.open_units(run, "auroc").origin["half"]
