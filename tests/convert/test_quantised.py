"""Quantised checkpoints: bit by bit what transformers makes of them, and the models that come of it."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from sparcom_jax.convert.files import open_files
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.convert.quantised import dequantised, mxfp4, scheme_of
from sparcom_jax.errors import InputError
from tests import checkpoints

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def quantise(
    directory: Path, config: dict[str, Any], change: Any, part: str = "_proj.weight"
) -> dict[str, torch.Tensor]:
    """Rewrites the tensors whose names contain `part`, and the config; returns what `change` says they are worth."""
    tensors = load_file(directory / "model.safetensors")
    worth = {}
    for name in [name for name in tensors if part in name]:
        stored, worth[name] = change(name, tensors.pop(name))
        tensors |= stored
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(raw | {"quantization_config": config}))
    return worth


def require_same(directory: Path, config: dict[str, Any], worth: dict[str, torch.Tensor], dtype: str) -> None:
    tensors, names = dequantised(open_files(directory), config, dtype)
    assert names == sorted(worth)
    for name, tensor in tensors.read(worth):
        assert tensor.dtype == dtype
        expected = worth[name].float().numpy().astype(dtype)
        np.testing.assert_array_equal(tensor.view(np.uint8), expected.view(np.uint8), err_msg=name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_mxfp4_is_what_transformers_makes_of_it(dtype: str) -> None:
    random = np.random.default_rng(0)
    blocks = random.integers(0, 256, (3, 10, 4, 16), np.uint8)
    blocks[0, 0] = np.arange(64).reshape(4, 16) * 4
    scales = random.integers(100, 150, (3, 10, 4), np.uint8)
    theirs = convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales), dtype=getattr(torch, dtype))
    mine = mxfp4(blocks, scales, dtype)
    assert mine.shape == (3, 128, 10)
    np.testing.assert_array_equal(mine.astype(np.float32), theirs.float().numpy())


def pack(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rounds experts [E, C, R] to MXFP4: blocks and scales as gpt-oss is released."""
    rows = values.transpose(1, 2).float().reshape(*values.shape[:1], values.shape[2], -1, 32)
    exponent = torch.floor(torch.log2(rows.abs().amax(-1))) - 1
    table = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    codes = (rows[..., None] / exponent.exp2()[..., None, None] - table).abs().argmin(-1).to(torch.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponent + 127).to(torch.uint8)


def test_gpt_oss_as_released(tmp_path: Path) -> None:
    fields = {"hidden_size": 64, "intermediate_size": 32, "torch_dtype": "bfloat16"}
    hf = checkpoints.save_model(tmp_path / "hf", "gpt_oss", torch.bfloat16, **fields)

    def change(name: str, tensor: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        blocks, scales = pack(tensor)
        stored = {f"{name}_blocks": blocks.contiguous(), f"{name}_scales": scales.contiguous()}
        return stored, convert_moe_packed_tensors(blocks, scales)

    config = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    tensors = load_file(hf / "model.safetensors")
    worth = {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        stored, worth[name] = change(name, tensors.pop(name))
        tensors |= stored
    save_file(tensors, hf / "model.safetensors", metadata={"format": "pt"})
    raw = json.loads((hf / "config.json").read_text())
    (hf / "config.json").write_text(json.dumps(raw | {"quantization_config": config, "experts_per_token": 2}))
    require_same(hf, config, worth, "bfloat16")
    model = convert(hf, tmp_path / "model")
    assert model.dtype == "bfloat16"
    assert model.manifest["conversion"]["dequantised"] == {"scheme": "mxfp4", "tensors": 6, "dtype": "bfloat16"}
    assert model.manifest["conversion"]["not_read"] == ["experts_per_token"]
    plain = {**tensors, **worth}
    for name in [name for name in plain if name.endswith(("_blocks", "_scales"))]:
        del plain[name]
    save_file({name: t.contiguous() for name, t in plain.items()}, hf / "model.safetensors", metadata={"format": "pt"})
    (hf / "config.json").write_text(json.dumps(raw))
    assert convert(hf, tmp_path / "plain").digest == model.digest


@pytest.mark.parametrize("block", [None, (128, 128), (16, 32)])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_fp8_is_what_transformers_makes_of_it(block: tuple[int, int] | None, dtype: str, tmp_path: Path) -> None:
    hf = checkpoints.llama(tmp_path / "hf", hidden_size=256, intermediate_size=384, num_hidden_layers=1)

    def change(name: str, tensor: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        rows, columns = block or tensor.shape
        grid = tensor.reshape(tensor.shape[0] // rows, rows, tensor.shape[1] // columns, columns)
        scale = grid.abs().amax((1, 3)) / 448
        small = (grid / scale[:, None, :, None]).reshape(tensor.shape).to(torch.float8_e4m3fn)
        scale = scale if block else scale.reshape(())
        worth = Fp8Dequantize(None)._dequantize_one(small, scale, getattr(torch, dtype))
        stored = {name: small, f"{name}_scale_inv": scale, name.replace("weight", "activation_scale"): torch.ones(())}
        return stored, worth

    config = {"quant_method": "fp8", "weight_block_size": list(block) if block else None, "activation_scheme": "static"}
    worth = quantise(hf, config, change)
    require_same(hf, config, worth, dtype)
    model = convert(hf, tmp_path / "model", dtype=dtype)
    assert model.dtype == dtype
    kernel = np.asarray(model.restore(ONE, dtype)["segments"][0][0]["mlp"]["up"]["kernel"])[0]
    expected = worth["model.layers.0.mlp.up_proj.weight"].float().numpy().T
    np.testing.assert_array_equal(kernel.astype(np.float32), expected)


def test_blocks_at_the_end_of_a_matrix_may_be_cut(tmp_path: Path) -> None:
    weight = torch.randn(200, 144).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 2)
    save_file({"a.weight": weight, "a.weight_scale_inv": scale}, tmp_path / "model.safetensors")
    config = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    expected = weight.float() * scale.repeat_interleave(128, 0)[:200].repeat_interleave(128, 1)[:, :144]
    require_same(tmp_path, config, {"a.weight": expected}, "float32")


@pytest.mark.parametrize("strategy", ["tensor", "channel", "block"])
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_compressed_tensors_are_what_their_library_makes_of_them(
    strategy: str, stored: torch.dtype, tmp_path: Path
) -> None:
    shapes = {"tensor": (1,), "channel": (96, 1), "block": (3, 2)}
    weight = torch.randn(96, 64).to(torch.float8_e4m3fn)
    scale = torch.rand(shapes[strategy]).to(stored)
    structure = [32, 32] if strategy == "block" else None
    weights = {"num_bits": 8, "type": "float", "strategy": strategy, "symmetric": True, "block_structure": structure}
    worth = dequantize(weight, scale, args=QuantizationArgs(**weights))
    save_file({"a.weight": weight, "a.weight_scale": scale}, tmp_path / "model.safetensors")
    group = {"weights": weights, "targets": ["Linear"], "format": "float-quantized"}
    config = {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}
    require_same(tmp_path, config, {"a.weight": worth.to(torch.bfloat16)}, "bfloat16")


REFUSED: dict[str, tuple[Any, str]] = {
    "gptq": ({"quant_method": "gptq", "bits": 4}, "quant_method 'gptq' is not handled"),
    "awq": ({"quant_method": "awq"}, "quant_method 'awq' is not handled"),
    "nothing": ({"bits": 4}, "quant_method None is not handled"),
    "format": ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt 'e5m2' of fp8 is not handled"),
    "integers": (
        {"quant_method": "compressed-tensors",
         "config_groups": {"g": {"weights": {"type": "int", "num_bits": 4, "strategy": "group"}}}},
        "group 'g' is 4-bit int by group",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_other_schemes_are_refused_by_name(case: str) -> None:
    config, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        scheme_of(config)


def test_scales_that_do_not_fit_are_named(tmp_path: Path) -> None:
    weight = torch.randn(64, 64).to(torch.float8_e4m3fn)
    save_file({"a.weight": weight, "a.weight_scale_inv": torch.rand(3, 1)}, tmp_path / "model.safetensors")
    config = {"quant_method": "fp8", "weight_block_size": [32, 32]}
    with pytest.raises(InputError, match=r"a\.weight is \[64, 64\], its scales \[3, 1\]"):
        dequantised(open_files(tmp_path), config, "float32")
    save_file({"a.weight": weight}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"a\.weight has no scale_inv"):
        dequantised(open_files(tmp_path), config, "float32")


def test_a_config_that_lost_its_quantisation_is_caught_by_the_dtypes(tmp_path: Path) -> None:
    hf = checkpoints.llama(tmp_path / "hf")
    tensors = load_file(hf / "model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, hf / "model.safetensors")
    with pytest.raises(InputError, match=r"up_proj\.weight' has dtype float8_e4m3fn"):
        convert(hf, tmp_path / "model")


def test_dtype_is_for_quantised_checkpoints(hf_llama: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--dtype is for quantised checkpoints"):
        convert(hf_llama, tmp_path / "model", dtype="bfloat16")
