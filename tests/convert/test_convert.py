"""Conversion: what is read is what is written, in its own dtype, and every fault is named and leaves nothing behind."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from sparcom_jax.convert.export import save_tensors
from sparcom_jax.convert.hf_config import translate
from sparcom_jax.convert.model_dir import ModelDir, convert, open_model
from sparcom_jax.errors import InputError
from tests import checkpoints
from tests.families import ROPE_YARN

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture
def broken(hf_moe: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hf_moe, tmp_path / "broken"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("shard", ["10GB", "200KB"])
def test_every_tensor_survives_in_its_own_dtype(dtype: str, shard: str, tmp_path: Path) -> None:
    directory = checkpoints.qwen2_moe(tmp_path / "hf")
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    shutil.rmtree(directory)
    model.save_pretrained(directory, max_shard_size=shard)
    assert (directory / "model.safetensors.index.json").exists() == (shard == "200KB")
    converted = convert(directory, tmp_path / "model")
    assert converted.dtype == dtype
    params = converted.restore(ONE, dtype)
    save_tensors(converted.config, params, tmp_path)
    back = load_file(tmp_path / "model.safetensors")
    original = {k: v for file in directory.glob("*.safetensors") for k, v in load_file(file).items()}
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        assert back[name].dtype == tensor.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
        np.testing.assert_array_equal(back[name].view(np.uint8), tensor.view(np.uint8), err_msg=name)


def test_the_digest_does_not_depend_on_the_files(hf_moe: Path, moe: ModelDir, broken: Path, tmp_path: Path) -> None:
    tensors = load_file(broken / "model.safetensors")
    halves = sorted(tensors)[::2], sorted(tensors)[1::2]
    weight_map = {}
    for part, names in zip(("a.safetensors", "b.safetensors"), halves, strict=True):
        save_file({name: tensors[name] for name in names}, broken / part)
        weight_map |= dict.fromkeys(names, part)
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert convert(broken, tmp_path / "model").digest == moe.digest


def test_each_device_restores_its_own_part(moe: ModelDir) -> None:
    from sparcom_jax.engine.placement import make_placement

    placement = make_placement("mesh:4", moe.config)
    params = moe.restore(placement.param_shardings(moe.config), "float32")
    experts = params["segments"][1][0]["moe"]["routed"]["gate"]
    assert experts.shape[1] == 8
    assert {shard.data.shape[1] for shard in experts.addressable_shards} == {2}
    kernel = params["segments"][1][0]["attention"]["o"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(2, 12, 48)}


@pytest.mark.parametrize("damage", ["lost", "cut"])
def test_a_damaged_model_is_named(damage: str, moe: ModelDir, tmp_path: Path) -> None:
    """In a process of its own: Orbax's other reads go on after the first fault and fail whatever test is next."""
    copy = Path(shutil.copytree(moe.path, tmp_path / "model"))
    if damage == "lost":
        shutil.rmtree(copy / "params" / "0")
    else:
        for file in (copy / "params" / "0").rglob("d/*"):
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    code = (
        "import jax\n"
        "from sparcom_jax.convert.model_dir import open_model\n"
        "from sparcom_jax.errors import InputError\n"
        "try:\n"
        f"    open_model({str(copy)!r}).restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), 'float32')\n"
        "except InputError as error:\n"
        "    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert "model/params/0: parameters cannot be read" in done.stdout


def test_torch_is_not_needed(hf_llama: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from sparcom_jax.convert.model_dir import convert, open_model\n"
        f"convert({str(hf_llama)!r}, {str(tmp_path / 'model')!r}).tokenizer()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert open_model(tmp_path / "model").config.num_layers == 3


def config(change: dict[str, Any]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        path = directory / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))

    return apply


def tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(directory: Path) -> None:
        loaded = load_file(directory / "model.safetensors")
        change(loaded)
        save_file(loaded, directory / "model.safetensors")

    return apply


def poison(loaded: dict[str, Any], value: float) -> None:
    loaded["model.layers.2.mlp.experts.3.up_proj.weight"][5, 7] = value


def cut_short(directory: Path) -> None:
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def field_twice(directory: Path) -> None:
    path = directory / "config.json"
    path.write_text(path.read_text().replace("{", '{"hidden_size": 64, ', 1))


def only_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


QUERY = "model.layers.1.self_attn.q_proj.weight"
FAULTS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "architecture": (config({"model_type": "mamba"}), r"config\.json: model_type 'mamba' is not supported"),
    "fields": (
        config({"is_causal": False, "quantization_config": {"quant_method": "gptq"}, "transformers_weights": "x"}),
        r"config\.json: fields is_causal = False .*; quantization_config: quant_method 'gptq' .*; transformers_weights",
    ),
    "field twice": (field_twice, r"config\.json: field 'hidden_size' is given twice"),
    "kind of attention": (config({"layer_types": ["full_attention", "chunked_attention"] * 2}), r"'chunked_attention'"),
    "rope": (config({"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}}), r"'proportional'"),
    "rope field": (config({"rope_parameters": ROPE_YARN | {"spin": 2.0}}), r"rope field 'spin' = 2\.0 is not handled"),
    "rope without field": (config({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}), r"factor"),
    "partial rotary": (
        config({"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}}),
        r"rope field 'partial_rotary_factor' = 0\.5",
    ),
    "activation": (config({"hidden_act": "xielu"}), r"hidden_act 'xielu'"),
    "no config": (lambda d: (d / "config.json").unlink(), r"config\.json: missing"),
    "config no json": (lambda d: (d / "config.json").write_text("{"), r"config\.json: not JSON"),
    "missing": (tensors(lambda t: t.pop(QUERY)), rf"missing tensors: {QUERY}"),
    "extra": (tensors(lambda t: t.update(spare=np.zeros(3))), r"unexpected tensors: spare"),
    "misshapen": (tensors(lambda t: t.update({QUERY: t[QUERY][:-1].copy()})), rf"misshapen .*{QUERY} is \[47, 48\]"),
    "nan": (tensors(lambda t: poison(t, np.nan)), r"experts\.3\.up_proj\.weight' is not finite at \[5, 7\]"),
    "infinite": (tensors(lambda t: poison(t, -np.inf)), r"experts\.3\.up_proj\.weight' is not finite at \[5, 7\]"),
    "integers": (tensors(lambda t: t.update({QUERY: t[QUERY].astype(np.int8)})), rf"{QUERY}' has dtype I8"),
    "mixed": (tensors(lambda t: t.update({QUERY: t[QUERY].astype(np.float16)})), r"tensors of different dtypes"),
    "cut short": (cut_short, r"model\.safetensors: cannot be read as safetensors"),
    "pickle": (only_pickle, r"pytorch_model\.bin: pickled weights are never loaded"),
    "nothing": (lambda d: (d / "model.safetensors").unlink(), r"neither model\.safetensors nor"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_leaves_nothing(fault: str, broken: Path, tmp_path: Path) -> None:
    apply, message = FAULTS[fault]
    apply(broken)
    with pytest.raises(InputError, match=message) as error:
        convert(broken, tmp_path / "out" / "model")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.glob("out/*"))


def test_a_shard_that_lacks_a_tensor(broken: Path, tmp_path: Path) -> None:
    weight_map = {"model.norm.weight": "model.safetensors", "ghost": "model.safetensors"}
    (broken / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(InputError, match="tensor 'ghost' is in the index but not in the file"):
        convert(broken, tmp_path / "model")


def test_an_existing_output_is_not_touched(hf_llama: Path, llama: ModelDir, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="exists already"):
        convert(hf_llama, tmp_path / "model")
    assert not list((tmp_path / "model").iterdir())


def test_sources_that_are_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such directory, nor an id"):
        convert(tmp_path / "nowhere", tmp_path / "model")
    with pytest.raises(InputError, match="nobody/nothing: no such directory, and the hub gave"):
        convert("nobody/nothing", tmp_path / "model")
    with pytest.raises(InputError, match="not a converted model"):
        open_model(tmp_path)


def test_old_checkpoints_buffers_and_tied_heads(broken: Path, tmp_path: Path) -> None:
    def change(loaded: dict[str, Any]) -> None:
        loaded["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
        loaded["lm_head.weight"] = loaded["model.embed_tokens.weight"].copy()

    tensors(change)(broken)
    config({"tie_word_embeddings": True})(broken)
    assert "head" not in convert(broken, tmp_path / "model").restore(ONE, "float32")
    tensors(lambda loaded: loaded["lm_head.weight"].__setitem__((0, 0), 7.0))(broken)
    with pytest.raises(InputError, match=re.escape("lm_head.weight is not the embedding")):
        convert(broken, tmp_path / "other")


def test_old_and_new_spelling_of_rope() -> None:
    base = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    scaling = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 512}
    old = translate(base | {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **scaling}})
    new = translate(base | {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **scaling}})
    assert old == new
    assert (old.ropes[0].kind, old.ropes[0].theta, old.ropes[0].factor) == ("llama3", 5e5, 8.0)
    older = translate(base | {"rope_scaling": {"type": "linear", "factor": 2.0}})
    assert (older.ropes[0].kind, older.ropes[0].theta, older.ropes[0].factor) == ("linear", 1e4, 2.0)
    assert translate(base).ropes[0].kind == "default"
