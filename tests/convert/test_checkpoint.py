"""Checkpoints as they are published: which files are read, wrappers around text models, models without a head."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForImageTextToText, AutoModelForSequenceClassification

from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.convert.model_dir import convert, open_model
from sparcom_jax.errors import InputError
from sparcom_jax.identify.select import identify
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.select.cores import core
from tests import checkpoints
from tests.models.test_parity import close, ours, spans

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def shards(directory: Path, tensors: dict[str, np.ndarray]) -> None:
    """Writes tensors as two shards and their index."""
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    weight_map = {}
    for part, names in zip(("a.safetensors", "b.safetensors"), halves, strict=True):
        save_file({name: tensors[name] for name in names}, directory / part)
        weight_map |= dict.fromkeys(names, part)
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def copy(hf_llama: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hf_llama, tmp_path / "copy"))


def test_two_sets_of_weights_that_are_the_same(copy: Path, tmp_path: Path) -> None:
    shards(copy, load_file(copy / "model.safetensors"))
    assert convert(copy, tmp_path / "model").manifest["conversion"]["files"] == ["model.safetensors"]
    (copy / "model.safetensors").unlink()
    assert convert(copy, tmp_path / "other").manifest["conversion"]["files"] == ["a.safetensors", "b.safetensors"]
    assert open_model(tmp_path / "model").digest == open_model(tmp_path / "other").digest


def test_two_sets_of_weights_that_differ(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    shards(copy, tensors | {"model.norm.weight": tensors["model.norm.weight"] * 2})
    with pytest.raises(InputError, match=r"model\.safetensors and .*index\.json .* differ \(values of model\.norm\.w"):
        convert(copy, tmp_path / "model")
    shards(copy, {name: tensor for name, tensor in tensors.items() if name != "lm_head.weight"})
    with pytest.raises(InputError, match=r"differ \(only one has lm_head\.weight\)"):
        convert(copy, tmp_path / "model")


def test_a_stale_index_is_left_aside(copy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    tensors = load_file(copy / "model.safetensors")
    shards(copy, {name: tensor * 2 for name, tensor in tensors.items()})
    (copy / "b.safetensors").unlink()
    params = convert(copy, tmp_path / "model").restore(ONE, "float32")
    np.testing.assert_array_equal(np.asarray(params["norm"]["scale"]), tensors["model.norm.weight"])
    said = capfd.readouterr().err
    assert "left aside, it names files that are not there: b.safetensors; model.safetensors is read" in said
    assert "reading model.safetensors" in said


TEXT_MODEL = r"^(model\.language_model\.|language_model\.model\.)"
WRAPPERS: dict[str, dict[str, Any]] = {
    "gemma3": {
        "text_config": {"model_type": "gemma3_text", "head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 16,
                        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
        "vision_config": {"model_type": "siglip_vision_model", "hidden_size": 32, "intermediate_size": 48,
                          "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        "mm_tokens_per_image": 4, "image_token_index": 500,
    },
    "mistral3": {
        "text_config": {"model_type": "mistral", "head_dim": 16},
        "vision_config": {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 48, "head_dim": 16,
                          "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        "tie_word_embeddings": False,
    },
    "qwen2_5_vl": {
        "text_config": {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]}},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                          "out_hidden_size": 48, "fullatt_block_indexes": [0]},
    },
    "qwen3_vl": {
        "text_config": {"head_dim": 16, "rope_parameters": {"rope_type": "default", "rope_theta": 1e4,
                                                            "mrope_section": [4, 2, 2], "mrope_interleaved": True}},
        "vision_config": {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2,
                          "out_hidden_size": 48, "deepstack_visual_indexes": [0]},
    },
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", ["new", "old"])
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_a_wrapper_gives_its_text_model(wrapper: str, names: str, tmp_path: Path) -> None:
    fields = json.loads(json.dumps(WRAPPERS[wrapper]))
    small = {k: v for k, v in checkpoints.SMALL.items() if k != "pad_token_id"}
    fields["text_config"] = small | {"num_key_value_heads": 2} | fields["text_config"]
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(CONFIG_MAPPING[wrapper](**fields)).float().eval()
    hf = tmp_path / "hf"
    model.save_pretrained(hf)
    checkpoints.save_tokenizer(hf)
    # As transformers 5 names them, and as they were named before.
    prefix = (
        "model.language_model." if names == "new" else "model." if wrapper == "qwen2_5_vl" else "language_model.model."
    )
    head = "language_model.lm_head" if names == "old" and wrapper in ("gemma3", "mistral3") else "lm_head"
    tensors = {
        re.sub(r"^(language_model\.)?lm_head", head, re.sub(TEXT_MODEL, prefix, name)): tensor
        for name, tensor in load_file(hf / "model.safetensors").items()
    }
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    mine = convert(hf, tmp_path / "model")
    made = mine.manifest["conversion"]
    assert made["text_model_of"] == wrapper
    assert made["tensors_left"]
    assert all("visi" in name or "visual" in name or "projector" in name for name in made["tensors_left"])
    logits, _ = ours(mine)
    with torch.inference_mode():
        for text, span in spans():
            theirs = model.double()(torch.tensor(text)[None].long()).logits[0].float().numpy()
            close(logits[span], theirs)
    assert open_model(tmp_path / "model").config == mine.config


def test_an_embedding_model_without_prefix_and_head(
    copy: Path, tmp_path: Path, instruction_file: Path, llama: Any
) -> None:
    saved = tmp_path / "saved"
    AutoModel.from_pretrained(copy).save_pretrained(saved)
    checkpoints.save_tokenizer(saved)
    tensors = load_file(saved / "model.safetensors")
    if any(name.startswith("model.") for name in tensors):  # transformers 5 keeps the prefix, earlier ones did not
        tensors = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
        save_file(tensors, saved / "model.safetensors", metadata={"format": "pt"})
    assert json.loads((saved / "config.json").read_text())["architectures"] == ["LlamaModel"]
    model = convert(saved, tmp_path / "model")
    assert not model.config.head
    rows = load_instructions(instruction_file)
    mine, whole = capture(model, rows, tmp_path / "run"), capture(llama, rows, tmp_path / "whole")
    np.testing.assert_array_equal(mine.read("mlp/positive_count"), whole.read("mlp/positive_count"))
    settings = CaptureSettings(scope="generated", new_tokens=2)
    with pytest.raises(InputError, match=r"has no output head, which scope 'generated' needs \(saved as LlamaModel\)"):
        capture(model, rows, tmp_path / "generated", settings)
    units = core(identify(mine), 0.5)
    with pytest.raises(InputError, match="has no output head, which ablation needs"):
        ablate(model, mine, units, tmp_path / "ablate")


@pytest.mark.filterwarnings("ignore")
def test_a_reward_model(copy: Path, tmp_path: Path) -> None:
    saved = tmp_path / "saved"
    AutoModelForSequenceClassification.from_pretrained(copy, num_labels=1, pad_token_id=0).save_pretrained(saved)
    checkpoints.save_tokenizer(saved)
    model = convert(saved, tmp_path / "model")
    assert model.manifest["conversion"]["tensors_left"] == ["score.weight"]
    assert not open_model(tmp_path / "model").config.head


def test_a_head_that_got_lost_is_missing(copy: Path, tmp_path: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"missing tensors: lm_head\.weight"):
        convert(copy, tmp_path / "model")


def test_a_model_directory_of_another_schema(llama: Any, tmp_path: Path) -> None:
    path = Path(shutil.copytree(llama.path, tmp_path / "model"))
    manifest = json.loads((path / "sparcom.json").read_text())
    (path / "sparcom.json").write_text(json.dumps(manifest | {"schema_version": 2}))
    with pytest.raises(InputError, match=r"sparcom\.json: schema_version is 2, this version reads 3"):
        open_model(path)


def test_what_is_digested_is_the_meaning_of_a_config(copy: Path, llama: Any, tmp_path: Path) -> None:
    """Another spelling, another order and labels make no other model; another constant does."""
    raw = json.loads((copy / "config.json").read_text())
    spelled = {name: raw[name] for name in sorted(raw, reverse=True)} | {"unk_token_id": 7, "auto_map": {"a": "b"}}
    spelled |= {"rope_theta": spelled.pop("rope_parameters")["rope_theta"]}
    (copy / "config.json").write_text(json.dumps(spelled))
    assert convert(copy, tmp_path / "model").digest == llama.digest
    (copy / "config.json").write_text(json.dumps(raw | {"rms_norm_eps": 1e-4}))
    assert convert(copy, tmp_path / "other").digest != llama.digest


def test_the_digest_stays_what_it_is() -> None:
    """Runs remember digests: a change of the decoder's config that moves this one makes all of them strangers."""
    from sparcom_jax.convert.hf_config import translate
    from sparcom_jax.convert.model_dir import model_digest

    config = translate({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2})
    assert model_digest(config, "weights") == "ab4134d0393d0eebee14563708beeab8ffe4dec247c029c92742eb5a3698c525"
