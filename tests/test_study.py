"""The study of the demo in miniature: trained, saved as transformers reads it, analysed, resumed stage by stage."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from ml_collections import ConfigDict
from transformers import AutoModelForCausalLM, AutoTokenizer

import sparcom_jax as sj
from sparcom_jax import stages
from sparcom_jax import study as study_module
from sparcom_jax.convert.model_dir import open_model
from sparcom_jax.errors import InputError
from sparcom_jax.settings import checked, default_config

FIELDS = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
BEFORE_ABLATE = ("convert", "capture", "identify", "evaluate", "attribute", "align", "select", "agree")
"""Stages of a model."""
MOE = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}


def study(file: Path) -> ConfigDict:
    config = default_config()
    training = {"corpus_characters": 20_000, "batch_tokens": 512, "base_steps": 3, "tuned_steps": 3}
    config.instructions = str(file)
    config.execution.batch_tokens = 512
    for section in (config.evaluate, config.compare):
        section.permutations = section.bootstraps = 20
    config.select.update({"size": 4, "expert_size": 1, "control_length": False})
    config.attribute.per_category = config.explore.top = config.explore.sample = 2
    config.ablate.update({"per_category": 1, "draws": 1, "bootstraps": 5})
    config.identify.update({"epsilon": 0.2, "expert_per_layer": 1})
    config.pairs = ConfigDict({
        "dense": {"train": {"fields": {"model_type": "llama", **FIELDS}, **training}},
        "moe": {"train": {"fields": {"model_type": "qwen2_moe", **FIELDS, **MOE}, **training}},
    })  # fmt: skip
    return config


def analyze(config: ConfigDict, output: Path) -> Path:
    return study_module.analyze(checked(config), output)


@pytest.fixture(scope="module", autouse=True)
def optax_promotes() -> Iterator[None]:
    """The optimizer's own arithmetic mixes integer and float types."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def finished(instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("study")
    assert analyze(study(instruction_file), output) == output / "report.html"
    return output


@pytest.mark.parametrize("name", ["dense-base", "dense-tuned", "moe-base", "moe-tuned"])
def test_transformers_loads_what_was_trained(name: str, finished: Path) -> None:
    model: Any = AutoModelForCausalLM.from_pretrained(finished / "hf" / name)
    tokenizer = AutoTokenizer.from_pretrained(finished / "hf" / name)
    ids = tokenizer("def main():", return_tensors="pt")["input_ids"]
    assert ids[0, 0] == tokenizer.bos_token_id
    with torch.inference_mode():
        assert torch.isfinite(model(ids).logits).all()


def test_everything_is_there(finished: Path) -> None:
    results = {path.parent.name for path in finished.glob("results/*/summary.json")}
    models = ["dense-base", "dense-tuned", "moe-base", "moe-tuned"]
    assert results == {
        *(f"{kind}-{model}" for model in models for kind in ("evaluate", "align", "agree")),
        *(f"{kind}-{model}-auroc" for model in models for kind in ("explore", "ablate")),
        "compare-dense-base-dense-tuned", "compare-moe-base-moe-tuned",
        "compare-dense-base-moe-base", "compare-dense-tuned-moe-tuned",
    }  # fmt: skip
    page = (finished / "report.html").read_text()
    assert all(name in page for name in results)
    base, tuned = (sj.open_run(finished / "runs" / f"dense-{role}") for role in ("base", "tuned"))
    assert np.any(base.read("mlp/positive_count") != tuned.read("mlp/positive_count"))


def test_finished_stages_are_kept(finished: Path, instruction_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = finished / "hf/moe-base/model.safetensors"
    before = weights.stat().st_mtime_ns
    (finished / "stages/evaluate-moe-base.json").unlink()
    page = (finished / "report.html").read_bytes()
    analyze(study(instruction_file), finished)
    assert weights.stat().st_mtime_ns == before
    assert (finished / "report.html").read_bytes() == page
    log = capsys.readouterr().err
    assert "train-moe: finished before" in log
    assert "evaluate-moe-base ..." in log
    changed = study(instruction_file)
    changed.identify.epsilon = 0.3
    named = r"stage identify-dense-base was made with other settings \(epsilon 0\.2, now 0\.3\)"
    with pytest.raises(InputError, match=named):
        analyze(changed, finished)


def stages_of(log: str) -> dict[str, list[str]]:
    """By what the log says of it: the stages, in order."""
    found: dict[str, list[str]] = {"made": [], "kept": []}
    for line in log.splitlines():
        if line.endswith(": finished before"):
            found["kept"].append(line.removesuffix(": finished before"))
        elif line.endswith(" ..."):
            found["made"].append(line.removesuffix(" ..."))
    return found


def test_what_reads_a_stage_that_is_another_now_is_made_again(
    finished: Path, instruction_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "moved"
    shutil.copytree(finished, output)
    config = study(instruction_file)
    config.pairs.dense.train.tuned_steps = 4
    capsys.readouterr()
    with pytest.raises(InputError) as error:
        analyze(config, output)
    marker = output / "stages/train-dense.json"
    assert str(error.value) == (
        f"{marker}: stage train-dense was made with other settings (tuned_steps 3, now 4); choose another --output, or "
        f"delete this file to make the stage again, and after it whatever reads what it made"
    )
    marker.unlink()
    analyze(config, output)
    log = capsys.readouterr().err
    found = stages_of(log)
    assert found["made"] == [
        "train-dense",
        *(f"{kind}-dense-tuned" for kind in BEFORE_ABLATE),
        "explore-dense-tuned-auroc", "ablate-dense-tuned-auroc",
        "compare-dense-base-dense-tuned", "compare-dense-tuned-moe-tuned",
    ]  # fmt: skip
    assert len(found["kept"]) == 10 + 1 + 2 * 10 + 1 + 1  # dense-base; moe: trained, both models, compared; the bases
    assert "capture-dense-tuned: is made again, because of another model\n" in log
    assert f"{output / 'runs/dense-tuned'}: was made of that and is deleted" in log
    assert "compare-dense-tuned-moe-tuned: is made again, because of another run of dense-tuned and set of dense" in log
    tuned = open_model(output / "models/dense-tuned")
    assert tuned.digest != open_model(finished / "models/dense-tuned").digest
    run = sj.open_run(output / "runs/dense-tuned")
    assert run.manifest.model.digest == tuned.digest
    digest = sj.open_sets(run, "excess").digest
    for result in ("evaluate-dense-tuned", "compare-dense-base-dense-tuned"):
        summary = json.loads((output / "results" / result / "summary.json").read_text())
        side = summary.get("tuned", summary)
        assert (side["model"]["digest"], side["set"]["digest"]) == (tuned.digest, digest)
    analyze(config, output)
    assert not stages_of(capsys.readouterr().err)["made"]


@pytest.fixture
def lone(finished: Path, instruction_file: Path, tmp_path: Path) -> ConfigDict:
    """A study of one model that was not trained by it."""
    shutil.copytree(finished / "hf/dense-tuned", tmp_path / "source")
    config = study(instruction_file)
    config.pairs = ConfigDict({"lone": {"base": str(tmp_path / "source")}})
    config.capture.rows_per_block = 16
    return config


LONE = [*(f"{kind}-lone-base" for kind in BEFORE_ABLATE),
        "explore-lone-base-auroc", "ablate-lone-base-auroc"]  # fmt: skip


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_study_that_is_killed_at_every_marker(
    when: str, lone: ConfigDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    analyze(lone, tmp_path / "whole")
    write = stages.write_marker
    kills = 0
    for allowed in range(2 * len(LONE)):
        left = [allowed]

        def write_until(marker: Path, content: dict[str, Any], left: list[int] = left) -> None:
            if when == "after":
                write(marker, content)
            if not left[0]:
                raise KeyboardInterrupt
            left[0] -= 1
            if when == "before":
                write(marker, content)

        monkeypatch.setattr(stages, "write_marker", write_until)
        with contextlib.suppress(KeyboardInterrupt):
            analyze(lone, tmp_path / "killed")
            break
        kills += 1
    monkeypatch.undo()
    assert kills > 3
    analyze(lone, tmp_path / "killed")
    for name in LONE[:3]:
        whole, killed = (
            json.loads((tmp_path / side / f"stages/{name}.json").read_text()) for side in ("whole", "killed")
        )
        assert whole == killed
        assert whole["output"]
    for table in (tmp_path / "whole/results").rglob("*.csv"):
        assert table.read_bytes() == (tmp_path / "killed" / table.relative_to(tmp_path / "whole")).read_bytes()


def test_a_capture_goes_on_or_begins_anew(
    lone: ConfigDict, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """It goes on where its model is the same, and does not where the checkpoint was replaced meanwhile."""
    capture = study_module.capture

    def killed(*args: Any) -> None:
        capture(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(study_module, "capture", killed)
    output, run = tmp_path / "out", tmp_path / "out/runs/lone-base"
    with pytest.raises(KeyboardInterrupt):
        analyze(lone, output)
    capsys.readouterr()
    with pytest.raises(KeyboardInterrupt):
        analyze(lone, output)
    log = capsys.readouterr().err
    assert f"{run}: 48 of 48 instructions are done already" in log
    assert "deleted" not in log
    shutil.copytree(finished / "hf/dense-base", tmp_path / "source", dirs_exist_ok=True)
    monkeypatch.undo()
    analyze(lone, output)
    log = capsys.readouterr().err
    assert "convert-lone-base: is made again, because of another checkpoint" in log
    assert f"{run}: was made of that and is deleted" in log
    assert stages_of(log)["made"] == LONE
    model = open_model(output / "models/lone-base")
    assert model.digest == open_model(finished / "models/dense-base").digest
    assert sj.open_run(run).manifest.model.digest == model.digest


def test_what_was_changed_by_hand_is_made_again(
    lone: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    analyze(lone, output)
    tables = {path: path.read_bytes() for path in (output / "results").rglob("*.csv")}
    sj.identify(sj.open_run(output / "runs/lone-base"), epsilon=0.9)
    shutil.rmtree(output / "results/evaluate-lone-base")
    capsys.readouterr()
    analyze(lone, output)
    log = capsys.readouterr().err
    assert stages_of(log)["made"] == ["identify-lone-base", "evaluate-lone-base"]
    assert "identify-lone-base: is made again, because what it made is gone or was changed" in log
    assert all(path.read_bytes() == content for path, content in tables.items())
    touched = tmp_path / "source/model.safetensors"
    os.utime(touched, ns=(1, 1))
    analyze(lone, output)
    assert stages_of(capsys.readouterr().err)["made"] == ["convert-lone-base"]  # and what it made is the same


def test_the_advice_on_a_changed_setting_is_true(
    lone: ConfigDict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    analyze(lone, output)
    lone.capture.count_window = 3
    marker, run = output / "stages/capture-lone-base.json", output / "runs/lone-base"
    named = (
        rf"stage capture-lone-base was made with other settings \(count_window 0, now 3\); .* this file and {run} to"
    )
    with pytest.raises(InputError, match=named):
        analyze(lone, output)
    marker.unlink()
    shutil.rmtree(run)
    capsys.readouterr()
    analyze(lone, output)
    assert stages_of(capsys.readouterr().err)["made"] == LONE[1:]
    assert sj.open_run(run).token_count.max() == 3
    lone.set_name = "other"
    with pytest.raises(InputError, match=r"identify-lone-base was made with other settings \(set_name 'excess', now"):
        analyze(lone, output)


def test_a_run_that_no_stage_here_made_is_not_deleted(lone: ConfigDict, finished: Path, tmp_path: Path) -> None:
    output, run = tmp_path / "out", tmp_path / "out/runs/lone-base"
    analyze(lone, output)
    shutil.rmtree(output / "stages")
    shutil.copytree(finished / "hf/dense-base", tmp_path / "source", dirs_exist_ok=True)
    for _ in range(2):
        with pytest.raises(
            InputError, match=rf"^{run}: was captured with another model\.digest .* or delete this run$"
        ):
            analyze(lone, output)
        assert not (output / "stages/capture-lone-base.json").exists()
    shutil.rmtree(run)
    analyze(lone, output)
    model = open_model(output / "models/lone-base").digest
    assert sj.open_run(run).manifest.model.digest == model == open_model(finished / "models/dense-base").digest


def test_other_instructions_are_another_run(lone: ConfigDict, instruction_file: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    analyze(lone, output)
    fewer = tmp_path / "fewer.jsonl"
    fewer.write_text("".join(instruction_file.read_text().splitlines(keepends=True)[:30]))
    lone.instructions = str(fewer)
    analyze(lone, output)
    summary = json.loads((output / "results/evaluate-lone-base/summary.json").read_text())
    assert sum(summary["instructions"]) == len(sj.open_run(output / "runs/lone-base").instructions) == 30


def test_an_unknown_field_is_named(instruction_file: Path, tmp_path: Path) -> None:
    config = study(instruction_file)
    config.pairs.dense.train.epochs = 3
    with pytest.raises(InputError, match=r"config field pairs\.dense\.train\.epochs is not known"):
        analyze(config, tmp_path)


def test_training_is_deterministic(finished: Path, instruction_file: Path, tmp_path: Path) -> None:
    from sparcom_jax.demo.training import TrainingSettings, train_pair

    settings = TrainingSettings(**study(instruction_file).pairs.dense.train.to_dict())
    train_pair(settings, sj.load_instructions(instruction_file), tmp_path / "base", tmp_path / "tuned")
    for role in ("base", "tuned"):
        first = (finished / f"hf/dense-{role}/model.safetensors").read_bytes()
        assert (tmp_path / role / "model.safetensors").read_bytes() == first


def test_a_loss_that_is_no_number(instruction_file: Path, tmp_path: Path) -> None:
    from sparcom_jax.demo.training import TrainingSettings, train_pair

    fields = study(instruction_file).pairs.dense.train.to_dict() | {"learning_rate": 1e30}
    with pytest.raises(InputError, match=r"base: plain text: the loss is not finite from step 3 on: .* than 1e\+30$"):
        train_pair(TrainingSettings(**fields), sj.load_instructions(instruction_file), tmp_path / "base", tmp_path)
    assert not (tmp_path / "base").exists()


def test_a_model_without_a_partner(finished: Path, instruction_file: Path, tmp_path: Path) -> None:
    """Where only one of a pair was published: everything but the comparison within the pair."""
    config = study(instruction_file)
    config.pairs = ConfigDict({
        "lone": {"tuned": str(finished / "hf" / "dense-tuned")},
        "both": {"base": str(finished / "hf" / "dense-base"), "tuned": str(finished / "hf" / "dense-tuned")},
    })  # fmt: skip
    analyze(config, tmp_path)
    made = {path.name for path in (tmp_path / "results").iterdir()}
    assert made == {
        *(result for model in ("lone-tuned", "both-base", "both-tuned")
          for result in (*(f"{kind}-{model}" for kind in ("evaluate", "align", "agree")),
                         *(f"{kind}-{model}-auroc" for kind in ("explore", "ablate")))),
        "compare-both-base-both-tuned", "compare-lone-tuned-both-tuned",
    }  # fmt: skip
    same = sj.open_run(tmp_path / "runs" / "lone-tuned").read("mlp/positive_count")
    np.testing.assert_array_equal(same, sj.open_run(tmp_path / "runs" / "both-tuned").read("mlp/positive_count"))


@pytest.mark.parametrize("pair", [{}, {"tuned": "x", "other": "y"}, {"train": {}, "base": "x"}])
def test_what_a_pair_may_hold(pair: dict[str, Any], instruction_file: Path, tmp_path: Path) -> None:
    config = study(instruction_file)
    config.pairs = ConfigDict({"odd": pair})
    with pytest.raises(
        InputError, match=r"config field pairs\.odd has .*; it needs base, tuned or both, or else train"
    ):
        analyze(config, tmp_path)


def test_an_adapter_is_compared_with_its_base(hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    from tests.convert.test_adapter import PAIR, write

    adapter = write(tmp_path / "adapter", {"r": 2, "lora_alpha": 1}, {name: one * 0.1 for name, one in PAIR.items()})
    config = default_config()
    config.instructions = str(instruction_file)
    config.pairs = {"lora": {"base": str(hf_llama), "tuned": {"source": str(hf_llama), "adapter": str(adapter)}}}
    config.identify.epsilon = 0.3
    config.evaluate.permutations = config.evaluate.bootstraps = 2
    config.compare.permutations = config.compare.bootstraps = 2
    config.select.update({"size": 4, "control_length": False})
    config.ablate.per_category = config.ablate.draws = 1
    analyze(config, tmp_path / "out")
    tuned = json.loads((tmp_path / "out" / "models" / "lora-tuned" / "sparcom.json").read_text())
    assert tuned["conversion"]["adapter"]["path"] == str(adapter)
    summary = json.loads((tmp_path / "out" / "results" / "compare-lora-base-lora-tuned" / "summary.json").read_text())
    assert summary["base"]["model"]["digest"] != summary["tuned"]["model"]["digest"]
    config.pairs = {"lora": {"base": {"adapter": str(adapter)}}}
    with pytest.raises(
        InputError, match=r"config field pairs\.lora\.base must be a checkpoint, or an object with source"
    ):
        analyze(config, tmp_path / "other")
