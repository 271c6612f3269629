"""Directories that appear whole or not at all."""

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from safetensors.numpy import save_file

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.convert.output import whole_directory
from sparcom_jax.errors import InputError
from sparcom_jax.tune.finetune import finetune


class Usage(NamedTuple):
    """As `shutil.disk_usage` has it."""

    total: int
    used: int
    free: int


def test_whatever_fails_nothing_is_left(tmp_path: Path) -> None:
    def of_safetensors(place: Path) -> None:
        save_file({"a": np.zeros(3)}, place / "none" / "x.safetensors")

    def of_the_system(place: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def attempt(fails: Callable[[Path], None]) -> None:
        with whole_directory(tmp_path / "out") as partial:
            (partial / "half").write_text("")
            fails(partial)

    for fails in (of_safetensors, of_the_system):
        with pytest.raises(InputError, match="out: cannot be written"):
            attempt(fails)
        assert not list(tmp_path.iterdir())


def test_a_disk_without_room_is_refused_before_the_work(
    llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is to be written: parameters, tensors that are copied, two checkpoints and the tuned model."""
    needed = llama.manifest["parameters"] * 4

    def said(times: float) -> str:
        return rf"out: needs {times * needed / 1e6:.1f} MB at least, and there are 0\.0 MB free"

    monkeypatch.setattr(shutil, "disk_usage", lambda place: Usage(0, 0, 999))
    with pytest.raises(InputError, match=said(0.5)):  # the store compresses
        sj.convert(hf_llama, tmp_path / "out")
    with pytest.raises(InputError, match=said(1)):
        sj.export(llama, tmp_path / "out")
    settings = sj.TuneSettings(category="B", per_category=1)
    with pytest.raises(InputError, match=said(6.5)):
        finetune(llama, instruction_file, "all", tmp_path / "out", settings)
    assert not list(tmp_path.iterdir())
