"""GGUF files: every family comes back as it was, quantised ones as transformers or the original says."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFReader, GGUFWriter, dequantize, quantize
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.errors import InputError
from sparcom_jax.models.rope import frequencies, rotary
from tests import checkpoints
from tests.families import CASES
from tests.gguf_files import ARCHITECTURES, write_gguf

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
EXTRA: dict[str, dict[str, Any]] = {
    "phi3": {"original_max_position_embeddings": 1024},
    "deepseek_v2": {"num_hidden_layers": 2},
    "qwen3_moe": {"norm_topk_prob": True},
    "gpt_oss": {"rope_parameters": CASES["llama"]["rope_yarn"]["rope_parameters"] | {"truncate": False}},
    "olmoe": {"rms_norm_eps": 1e-5},
}
SHAPES = [(family, "plain", EXTRA.get(family, {})) for family in ARCHITECTURES] + [
    ("llama", "gqa", {"num_key_value_heads": 2}),
    ("llama", "biases", {"attention_bias": True, "mlp_bias": True}),
    ("llama", "linear", CASES["llama"]["rope_linear"]),
    ("llama", "yarn", CASES["llama"]["rope_yarn"]),
    ("qwen3", "biases", {"attention_bias": True}),
    ("phi3", "longrope", CASES["phi3"]["longrope"]),
    ("phi3", "window", {"sliding_window": 16, "original_max_position_embeddings": 1024}),
    ("deepseek_v2", "lite", {"q_lora_rank": None, "num_hidden_layers": 2, "routed_scaling_factor": 2.5}),
    ("deepseek_v2", "groups", CASES["deepseek_v2"]["groups"] | {"attention_bias": False}),
    ("deepseek_v2", "yarn", {"rope_parameters": CASES["llama"]["rope_yarn"]["rope_parameters"]
                             | {"mscale": 0.707, "mscale_all_dim": 0.707}}),
    ("gpt_oss", "no_bias", {"attention_bias": False}),
    ("gemma3_text", "linear", {"rope_parameters": {
        "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}, "query_pre_attn_scalar": 16}),
]  # fmt: skip


def same_model(mine: ModelDir, theirs: ModelDir) -> None:
    """The same config, and the same parameters bit by bit."""
    assert mine.config == theirs.config
    for one, other in zip(*(jax.tree.leaves(model.restore(ONE, "float32")) for model in (mine, theirs)), strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize(
    ("family", "case", "fields"), SHAPES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_family_comes_back_as_it_was(family: str, case: str, fields: dict[str, Any], tmp_path: Path) -> None:
    if family in ("gemma2", "gemma3_text"):  # llama.cpp has no key for it
        fields = {"query_pre_attn_scalar": 16} | fields
    hf = checkpoints.save_model(tmp_path / "hf", family, **fields)
    if family.startswith("gemma"):  # llama.cpp keeps norms as w + 1 in float32, which rounds w
        tensors = load_file(hf / "model.safetensors")
        rounded = {k: (v + np.float32(1)) - np.float32(1) if "norm" in k else v for k, v in tensors.items()}
        save_file(rounded, hf / "model.safetensors", metadata={"format": "pt"})
    written = write_gguf(hf, tmp_path / "tiny.gguf")
    mine, theirs = convert(written, tmp_path / "mine"), convert(hf, tmp_path / "theirs")
    if family == "mistral":  # llama.cpp calls it llama
        assert mine.config.family == "llama"
        raw = json.loads((hf / "config.json").read_text())
        (hf / "config.json").write_text(json.dumps(raw | {"model_type": "llama", "sliding_window": None}))
        theirs = convert(hf, tmp_path / "again")
    same_model(mine, theirs)
    assert mine.digest == theirs.digest
    text = "Write a function: what is 2 + 34?\n\n Say <s> or </s>."
    assert mine.tokenizer()(text)["input_ids"] == AutoTokenizer.from_pretrained(hf)(text)["input_ids"]
    assert mine.tokenizer().apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False) == "<user>hi"
    assert mine.stop_token_ids() == (1,)


# transformers takes from its config classes what it does not read from the file.
AS_TRANSFORMERS_HAS_IT: dict[str, dict[str, Any]] = {
    "llama": {}, "qwen2": {}, "gemma2": {}, "gemma3_text": {}, "phi3": {"original_max_position_embeddings": 4096},
    "qwen3": {"head_dim": 128}, "qwen3_moe": {"moe_intermediate_size": 768, "norm_topk_prob": True},
    "qwen2_moe": {"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
}  # fmt: skip


@pytest.mark.parametrize("family", AS_TRANSFORMERS_HAS_IT)
def test_transformers_reads_the_same_from_a_quantised_file(family: str, tmp_path: Path) -> None:
    fields = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2} | AS_TRANSFORMERS_HAS_IT[family]
    hf = checkpoints.save_model(tmp_path / "hf", family, **fields)
    write_gguf(hf, tmp_path / "tiny.gguf", Kind.Q4_1, keys={"tokenizer.ggml.padding_token_id": 0})
    read = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="tiny.gguf", dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32)
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(tmp_path / "theirs")
    checkpoints.save_tokenizer(tmp_path / "theirs")
    mine, theirs = convert(tmp_path / "tiny.gguf", tmp_path / "mine"), convert(tmp_path / "theirs", tmp_path / "again")
    pairs = zip(*(jax.tree.leaves(model.restore(ONE, "float32")) for model in (mine, theirs)), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q4_0, Kind.Q5_1, Kind.TQ2_0, Kind.MXFP4])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_type_is_dequantised_once(kind: Kind, dtype: str, tmp_path: Path) -> None:
    hf = checkpoints.llama(tmp_path / "hf", hidden_size=256, intermediate_size=256, num_hidden_layers=1)
    write_gguf(hf, tmp_path / "tiny.gguf", kind)
    mine = convert(tmp_path / "tiny.gguf", tmp_path / "mine", dtype=dtype)
    weight = load_file(hf / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    expected = dequantize(quantize(weight, kind), kind).astype(mine.dtype)
    params = mine.restore(ONE, dtype)
    assert mine.dtype == dtype
    np.testing.assert_array_equal(np.asarray(params["segments"][0][0]["mlp"]["up"]["kernel"])[0], expected.T)
    made = mine.manifest["conversion"]
    assert made["dequantised"] == {"scheme": "gguf", "tensors": {kind.name: 9, "F32": 3}, "dtype": dtype}
    assert made["files"] == ["tiny.gguf"]


def test_the_latent_projection_may_be_in_two(tmp_path: Path) -> None:
    hf = checkpoints.save_model(tmp_path / "hf", "deepseek_v2")
    keys = {"deepseek2.attention.key_length": 24, "deepseek2.attention.value_length": 16,
            "deepseek2.attention.key_length_mla": 20, "deepseek2.attention.value_length_mla": 10}  # fmt: skip
    write_gguf(hf, tmp_path / "tiny.gguf", keys=keys, split_latent=True)
    same_model(convert(tmp_path / "tiny.gguf", tmp_path / "mine"), convert(hf, tmp_path / "theirs"))


def test_factors_of_frequencies_are_those_of_llama3(tmp_path: Path) -> None:
    """Llama 3.1 in GGUF has a factor for every frequency; heads must be turned as the four numbers say."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64}  # fmt: skip
    hf = checkpoints.llama(tmp_path / "hf", head_dim=32, rope_parameters=rope)
    theirs = convert(hf, tmp_path / "theirs").config.ropes[0]
    factors = (5e5 ** (-np.arange(0, 32, 2) / 32) / np.asarray(frequencies(theirs))).astype(np.float32)
    assert factors[0] == 1
    np.testing.assert_allclose(factors[-1], 8, rtol=1e-6)
    raw = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(raw | {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}))
    write_gguf(hf, tmp_path / "tiny.gguf", tensors={"rope_freqs.weight": factors})
    mine = convert(tmp_path / "tiny.gguf", tmp_path / "mine").config.ropes[0]
    position = jnp.arange(1000)
    for length in (1, 1000):
        one, other = (rotary(position, jnp.full(1000, length), of) for of in (mine, theirs))
        np.testing.assert_allclose(one.cos, other.cos, atol=2e-4)
        np.testing.assert_allclose(one.sin, other.sin, atol=2e-4)


def test_a_split_file(hf_llama: Path, tmp_path: Path) -> None:
    whole = write_gguf(hf_llama, tmp_path / "whole.gguf")
    reader = GGUFReader(whole)
    for part in (0, 1):
        writer = GGUFWriter(tmp_path / f"tiny-0000{part + 1}-of-00002.gguf", "llama")
        if part == 0:
            for key, entry in reader.fields.items():
                if not key.startswith("GGUF.") and key != "general.architecture":
                    writer.add_key_value(key, entry.contents(), *entry.types[:1],
                                         *([entry.types[1]] if len(entry.types) > 1 else []))  # fmt: skip
            writer.add_uint32("split.tensors.count", len(reader.tensors))
        for tensor in reader.tensors[part::2]:
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    second = tmp_path / "tiny-00002-of-00002.gguf"
    same_model(convert(second, tmp_path / "mine"), convert(hf_llama, tmp_path / "theirs"))
    second.rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"parts of the model are missing: tiny-00002-of-00002\.gguf"):
        convert(tmp_path / "tiny-00001-of-00002.gguf", tmp_path / "model")


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"keys": {"llama.attention.scale": 0.5}}, r"keys that are not handled: llama\.attention\.scale = 0\.5"),
    "missing": ({"drop": ("llama.context_length",)}, r"key 'llama\.context_length' is missing"),
    "rope": ({"keys": {"llama.rope.scaling.type": "spiral"}}, r"'llama\.rope\.scaling\.type' 'spiral' is not handled"),
    "causal": ({"keys": {"llama.attention.causal": False}}, r"'llama\.attention\.causal' is false"),
    "tensor": ({"tensors": {"blk.0.spare.weight": np.zeros((2, 2))}}, r"tensors that are not handled: blk\.0\.spare"),
    "nan": (
        {"tensors": {"blk.1.ffn_norm.weight": np.full(48, np.nan)}},
        r"layers\.1\.post_attention_layernorm\.weight' is not finite at \[0\]",
    ),
    "shape": ({"tensors": {"blk.1.ffn_norm.weight": np.zeros(47)}}, r"misshapen .*layers\.1\.post_attention_layernorm"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named(fault: str, hf_llama: Path, tmp_path: Path) -> None:
    changes, message = FAULTS[fault]
    path = write_gguf(hf_llama, tmp_path / "tiny.gguf", **changes)
    with pytest.raises(InputError, match=message) as error:
        convert(path, tmp_path / "out" / "model")
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "b.gguf").write_bytes(b"nothing of the kind, but long enough to look at")
    for name in ("a.gguf", "b.gguf"):
        with pytest.raises(InputError, match=rf"{name}: cannot be read as GGUF"):
            convert(tmp_path / name, tmp_path / "model")


def test_a_directory_of_gguf_files(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    with pytest.raises(InputError, match=r"has GGUF files; give one as --source: .*a\.gguf"):
        convert(tmp_path, tmp_path / "model")


def test_a_cut_file(hf_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(hf_llama, tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"tiny\.gguf: cannot be read as GGUF"):
        convert(path, tmp_path / "model")


def test_unknown_pre_tokenizers_are_refused(hf_llama: Path, tmp_path: Path) -> None:
    path = write_gguf(hf_llama, tmp_path / "tiny.gguf")
    content = path.read_bytes()
    path.write_bytes(content.replace(b"gpt-2", b"gpt-9"))
    with pytest.raises(InputError, match=r"tokenizer\.ggml\.pre 'gpt-9' is not handled"):
        convert(path, tmp_path / "model")
