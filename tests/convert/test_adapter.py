"""LoRA adapters: merged as PEFT merges them, or refused."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sparcom_jax.convert.model_dir import convert
from sparcom_jax.errors import InputError
from tests import checkpoints

# peft and transformers, at each other
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Setting `save_embedding_layers`")
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
LINEAR = ["q_proj", "v_proj", "up_proj", "down_proj"]
CASES: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 6, "target_modules": LINEAR},
    "rank_stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True, "target_modules": LINEAR},
    "patterns": {"r": 4, "lora_alpha": 6, "target_modules": LINEAR,
                 "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 8}, "alpha_pattern": {"v_proj": 20}},
    "dora": {"r": 4, "use_dora": True, "target_modules": LINEAR},
    "embedding": {"r": 4, "target_modules": ["embed_tokens", "q_proj"]},
    "whole_modules": {"r": 4, "target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]},
    "biases": {"r": 4, "target_modules": ["q_proj", "up_proj"], "bias": "all"},
}  # fmt: skip


def adapt(hf: Path, path: Path, settings: dict[str, Any]) -> Any:
    """Saves a random adapter and returns the model with it merged in."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(hf), LoraConfig(**settings))
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name or (settings.get("bias") == "all" and name.endswith(".bias")):
            with torch.no_grad():
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(path)
    return model.merge_and_unload()


@pytest.mark.parametrize("case", CASES)
def test_as_peft_merges(case: str, tmp_path: Path) -> None:
    hf = checkpoints.llama(tmp_path / "hf", attention_bias=True, mlp_bias=True)
    merged = adapt(hf, tmp_path / "adapter", CASES[case])
    merged.save_pretrained(tmp_path / "merged")
    checkpoints.save_tokenizer(tmp_path / "merged")
    mine = convert(hf, tmp_path / "mine", adapter=tmp_path / "adapter")
    theirs, base = convert(tmp_path / "merged", tmp_path / "theirs"), convert(hf, tmp_path / "base")
    leaves = [jax.tree.leaves(model.restore(ONE, "float32")) for model in (mine, theirs, base)]
    changed = 0
    for one, other, before in zip(*leaves, strict=True):
        np.testing.assert_allclose(np.asarray(one), np.asarray(other), rtol=1e-5, atol=1e-6)
        changed += bool((np.asarray(one) != np.asarray(before)).any())
    assert changed >= len(CASES[case]["target_modules"])
    made = mine.manifest["conversion"]["adapter"]
    assert made["config"]["r"] == 4
    names = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert made["tensors"] == len({name.replace(".base_layer.weight", "").partition(".lora_")[0] for name in names})
    assert mine.digest != base.digest


def test_experts_of_a_mixture(tmp_path: Path) -> None:
    """Adapters from before experts were fused name every expert's projection."""
    hf = checkpoints.qwen2_moe(tmp_path / "hf", num_hidden_layers=1)
    module = "model.layers.0.mlp.experts.3.up_proj"
    weight = load_file(hf / "model.safetensors")[f"{module}.weight"]
    down, up = torch.randn(2, weight.shape[1]), torch.randn(weight.shape[0], 2)
    write(tmp_path / "adapter", {"r": 2, "lora_alpha": 5}, {f"{module}.lora_A": down, f"{module}.lora_B": up})
    params = convert(hf, tmp_path / "model", adapter=tmp_path / "adapter").restore(ONE, "float32")
    expected = weight + 2.5 * up @ down
    np.testing.assert_allclose(
        np.asarray(params["segments"][0][0]["moe"]["routed"]["up"])[0, 3].T, expected, rtol=1e-5, atol=1e-6
    )


def write(path: Path, config: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"} | config))
    named = {f"base_model.model.{name}.weight": tensor for name, tensor in tensors.items()}
    save_file(named, path / "adapter_model.safetensors")
    return path


Q = "model.layers.0.self_attn.q_proj"
PAIR = {f"{Q}.lora_A": torch.ones(2, 48), f"{Q}.lora_B": torch.ones(48, 2)}
FAULTS: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor], str]] = {
    "kind": ({"peft_type": "IA3"}, PAIR, "peft_type 'IA3' is not handled"),
    "fields": (
        {"r": 2, "layer_replication": [[0, 1]], "fan_in_fan_out": True},
        PAIR,
        r"fan_in_fan_out = True; layer_replication = \[\[0, 1\]\]: not handled",
    ),
    "start": ({"r": 2, "init_lora_weights": "pissa"}, PAIR, r"init_lora_weights = 'pissa' \(it changes the base"),
    "module": (
        {"r": 2},
        {name.replace(".0.", ".9."): tensor for name, tensor in PAIR.items()},
        r"adapts model\.layers\.9\.self_attn\.q_proj\.weight, which the base model does not have",
    ),
    "rank": ({"r": 4}, PAIR, r"lora_A \[2, 48\] and lora_B \[48, 2\]; its weight \[48, 48\] and rank 4 want \[4, 48\]"),
    "half": ({"r": 2}, {f"{Q}.lora_A": torch.ones(2, 48)}, "q_proj lacks lora_B"),
    "dora": ({"r": 2, "use_dora": True}, PAIR, "does not fit use_dora"),
    "whole": ({"r": 2}, {"model.norm": torch.ones(47)}, r"model\.norm\.weight is \[47\], the base model's \[48\]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, hf_llama: Path, tmp_path: Path) -> None:
    config, tensors, message = FAULTS[fault]
    write(tmp_path / "adapter", config, tensors)
    with pytest.raises(InputError, match=message) as error:
        convert(hf_llama, tmp_path / "out" / "model", adapter=tmp_path / "adapter")
    assert str(tmp_path / "adapter") in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_tied_embeddings_are_not_adapted(tmp_path: Path) -> None:
    hf = checkpoints.llama(tmp_path / "hf", tie_word_embeddings=True)
    write(tmp_path / "adapter", {"r": 2}, {"model.embed_tokens": torch.ones(512, 48)})
    with pytest.raises(InputError, match="changes the embedding, which is the output head"):
        convert(hf, tmp_path / "model", adapter=tmp_path / "adapter")


def test_an_adapter_is_no_source(hf_llama: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "adapter", {"r": 2}, PAIR)
    with pytest.raises(InputError, match="is a LoRA adapter; give its base model as --source"):
        convert(path, tmp_path / "model")
    with pytest.raises(InputError, match=r"not a LoRA adapter \(no adapter_config\.json\)"):
        convert(hf_llama, tmp_path / "model", adapter=hf_llama)
    (path / "adapter_model.safetensors").rename(path / "adapter_model.bin")
    with pytest.raises(InputError, match="pickled weights are never loaded"):
        convert(hf_llama, tmp_path / "model", adapter=path)
