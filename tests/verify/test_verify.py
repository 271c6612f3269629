"""A user's own check: it passes what is right, and names what departs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.errors import InputError
from sparcom_jax.verify.verify import render, verify
from tests import checkpoints

ROOT = Path(__file__).resolve().parents[2]


def test_a_right_model_passes(moe: ModelDir, hf_moe: Path, instruction_file: Path) -> None:
    outcome = verify(moe, hf_moe, sj.load_instructions(instruction_file), 10, "float32")
    assert outcome.faults == []
    assert outcome.texts == 10
    assert outcome.logits_error < 1e-5
    assert outcome.departure is None
    kinds = [(one.layer, one.group) for one in outcome.layers]
    assert kinds == [
        (0, "mlp"),
        (1, "routed"),
        (1, "shared"),
        (2, "routed"),
        (2, "shared"),
        (3, "routed"),
        (3, "shared"),
    ]
    assert outcome.layers[0].activations == outcome.tokens * 80
    assert outcome.layers[1].tokens == outcome.tokens
    assert outcome.layers[1].activations == outcome.tokens * 2 * 24
    assert "flip rate of all activations: 0.0e+00" in render(outcome)


def test_half_precision_is_measured(moe: ModelDir, hf_moe: Path, instruction_file: Path) -> None:
    outcome = verify(moe, hf_moe, sj.load_instructions(instruction_file), 5, "bfloat16")
    assert 1e-4 < outcome.logits_error < 1
    assert outcome.faults == []
    assert sum(one.flips for one in outcome.layers) > 0


@pytest.mark.parametrize(("tensor", "module"), [
    ("model.layers.1.self_attn.k_proj.weight", "model.layers.1.self_attn"),
    ("model.layers.2.mlp.up_proj.weight", "model.layers.2.mlp"),
    ("model.layers.0.post_attention_layernorm.weight", "model.layers.0.post_attention_layernorm"),
    ("model.embed_tokens.weight", "model.embed_tokens"),
])  # fmt: skip
def test_the_first_module_that_departs_is_named(
    tensor: str, module: str, hf_llama: Path, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    spoilt = Path(shutil.copytree(hf_llama, tmp_path / "hf"))
    tensors = load_file(spoilt / "model.safetensors")
    save_file(
        tensors | {tensor: np.ascontiguousarray(1.1 * tensors[tensor])}, spoilt / "model.safetensors", {"format": "pt"}
    )
    outcome = verify(llama, spoilt, sj.load_instructions(instruction_file), 4, "float32")
    assert any("logits depart by" in fault for fault in outcome.faults)
    assert outcome.departure is not None
    assert outcome.departure.module == module
    assert f"first module that departs: {module}" in render(outcome)


def test_bad_input(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    instructions = sj.load_instructions(instruction_file)
    with pytest.raises(InputError, match="dtype 'float8' is not known"):
        verify(llama, hf_llama, instructions, 4, "float8")
    with pytest.raises(InputError, match="count 0"):
        verify(llama, hf_llama, instructions, 0, "float32")
    with pytest.raises(InputError, match="nowhere: transformers cannot load it"):
        verify(llama, tmp_path / "nowhere", instructions, 4, "float32")


def test_as_a_command(tmp_path: Path, instruction_file: Path) -> None:
    directory = checkpoints.save_model(tmp_path / "hf", "olmoe")
    convert(directory, tmp_path / "model")
    other = checkpoints.save_model(tmp_path / "other", "olmoe", seed=1)

    def run(source: Path, *flags: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "launch/verify.py", f"--source={source}", f"--model={tmp_path / 'model'}", "--count=3",
             f"--instructions={instruction_file}", *flags], capture_output=True, text=True, cwd=ROOT,
        )  # fmt: skip

    right = run(directory, f"--output={tmp_path / 'out.json'}")
    assert right.returncode == 0, right.stderr
    assert "3 instructions" in right.stdout
    assert json.loads((tmp_path / "out.json").read_text())["faults"] == []
    wrong = run(other)
    assert wrong.returncode == 1
    assert "FAULT logits depart by" in wrong.stdout
    assert "first module that departs: model.embed_tokens" in wrong.stdout


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_that_are_none(dtype: str, hf_llama: Path, llama: ModelDir, instruction_file: Path,
                               tmp_path: Path) -> None:  # fmt: skip
    """An infinite activation on one side or both is said, by instruction and layer, and nothing is compared."""
    instructions = sj.load_instructions(instruction_file)
    spoilt = Path(shutil.copytree(hf_llama, tmp_path / "hf"))
    tensors = load_file(spoilt / "model.safetensors")
    names = [f"model.layers.1.mlp.{part}_proj.weight" for part in ("up", "down")]
    save_file(tensors | {name: tensors[name] * 1e25 for name in names}, spoilt / "model.safetensors", {"format": "pt"})
    model = convert(spoilt, tmp_path / "model")
    both = rf"instruction r\d+, {dtype}: the numbers of this package are not finite from layer 1 on, those of " \
           r"transformers not finite from layer 2 on: there is nothing to compare"  # fmt: skip
    with pytest.raises(InputError, match=both):
        verify(model, spoilt, instructions, 3, dtype)
    with pytest.raises(InputError, match="this package are finite, those of transformers not finite from layer 2 on"):
        verify(llama, spoilt, instructions, 3, dtype)
    with pytest.raises(InputError, match="not finite from layer 1 on, those of transformers finite: there is nothing"):
        verify(model, hf_llama, instructions, 3, dtype)
