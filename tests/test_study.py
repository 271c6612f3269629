"""The study of the demo in miniature: trained, saved as transformers reads it, analysed, resumed stage by stage."""

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
from sparcom_jax.errors import InputError
from sparcom_jax.settings import default_config
from sparcom_jax.study import analyze

FIELDS = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 1024, "tie_word_embeddings": True,
}  # fmt: skip
MOE = {"moe_intermediate_size": 16, "shared_expert_intermediate_size": 24, "num_experts": 4, "num_experts_per_tok": 2}


def study(file: Path) -> ConfigDict:
    config = default_config()
    training = {"corpus_characters": 20_000, "batch_tokens": 512, "base_steps": 3, "tuned_steps": 3}
    config.instructions = str(file)
    config.capture.batch_tokens = 512
    for section in (config.evaluate, config.compare):
        section.permutations = section.bootstraps = 20
    config.ablate.update({"per_category": 1, "draws": 1, "rho": 0.8})
    config.identify.expert_per_layer = 1
    config.pairs = ConfigDict({
        "dense": {"train": {"fields": {"model_type": "llama", **FIELDS}, **training}},
        "moe": {"train": {"fields": {"model_type": "qwen2_moe", **FIELDS, **MOE}, **training}},
    })  # fmt: skip
    return config


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
        *(f"{kind}-{model}" for kind in ("evaluate", "ablate") for model in models),
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
    changed.identify.epsilon = 0.2
    with pytest.raises(InputError, match="stage identify-dense-base was made with other settings"):
        analyze(changed, finished)


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
        "evaluate-lone-tuned", "ablate-lone-tuned", "evaluate-both-base", "ablate-both-base", "evaluate-both-tuned",
        "ablate-both-tuned", "compare-both-base-both-tuned", "compare-lone-tuned-both-tuned",
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
