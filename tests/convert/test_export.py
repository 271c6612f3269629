"""A converted model as a Hugging Face directory again: the same tensors, the same model."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from sparcom_jax.convert.export import export
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.errors import InputError
from tests import checkpoints
from tests.families import CASES


def tensors_of(directory: Path) -> dict[str, np.ndarray]:
    return {name: tensor for path in directory.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("family", CASES)
def test_tensors_of_every_family_come_back_bit_by_bit(family: str, tmp_path: Path) -> None:
    source = checkpoints.save_model(tmp_path / "hf", family, torch.bfloat16, **next(iter(CASES[family].values())))
    model = convert(source, tmp_path / "model")
    back = export(model, tmp_path / "back")
    original, found = tensors_of(source), tensors_of(back)
    buffers = original.keys() - found.keys()
    assert all(name.endswith(("inv_freq", ".bias")) for name in buffers)
    assert found.keys() <= original.keys()
    for name, tensor in found.items():
        assert tensor.dtype == original[name].dtype
        np.testing.assert_array_equal(tensor.view(np.uint8), original[name].view(np.uint8), err_msg=name)
    again = convert(back, tmp_path / "again")
    assert (again.digest, again.tokenizer_digest) == (model.digest, model.tokenizer_digest)


def test_shards_of_a_size(moe: ModelDir, hf_moe: Path, tmp_path: Path) -> None:
    back = export(moe.path, tmp_path / "back", shard_bytes=200_000)
    index = json.loads((back / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert len(files) > 2
    assert files == sorted(path.name for path in back.glob("*.safetensors"))
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    original = tensors_of(hf_moe)
    assert index["weight_map"].keys() == original.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in original.values())
    for file in files:
        assert sum(tensor.nbytes for tensor in load_file(back / file).values()) <= 200_000
    assert convert(back, tmp_path / "again").digest == moe.digest


def test_the_config_says_the_dtype(llama: ModelDir, tmp_path: Path) -> None:
    """Of a model that was dequantised, whose config still says how it was quantised."""
    shutil.copytree(llama.path, tmp_path / "model")
    config = json.loads((llama.path / "config.json").read_text())
    told = config | {"quantization_config": {"quant_method": "fp8"}, "dtype": "bfloat16"}
    (tmp_path / "model/config.json").write_text(json.dumps(told))
    model = ModelDir(tmp_path / "model", llama.config, llama.manifest)
    written = json.loads((export(model, tmp_path / "back") / "config.json").read_text())
    assert written == config | {"dtype": "float32"}
    same = export(llama, tmp_path / "same")
    assert (same / "config.json").read_bytes() == (llama.path / "config.json").read_bytes()


def test_what_is_refused(llama: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there: exists already; choose another --output or delete it"):
        export(llama, tmp_path / "there")
    wrapped = llama.manifest | {"conversion": {"text_model_of": "gemma3"}}
    with pytest.raises(InputError, match="is the text model of a gemma3, whose config it has"):
        export(ModelDir(llama.path, llama.config, wrapped), tmp_path / "new")

    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"new: cannot be written \(No space left on device\)$"):
        export(llama, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
