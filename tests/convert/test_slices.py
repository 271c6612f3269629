"""Units set to 0 in a checkpoint of every family, then converted, against the same in the converted parameters."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from sparcom_jax.convert.model_dir import convert
from sparcom_jax.convert.slices import tensor_slices
from tests import checkpoints
from tests.families import CASES, MLPS
from tests.parameters import groups_of, leaves_of, slices_of, some_units, with_value


@pytest.mark.parametrize(("family", "case"), MLPS)
def test_units_in_the_checkpoint(family: str, case: str, tmp_path: Path) -> None:
    directory = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][case])
    model = convert(directory, tmp_path / "model")
    groups = groups_of(model.config)
    masks = some_units(groups)
    slices = [one for name, mask in masks.items() for one in slices_of(model.config, groups[name], mask)]
    leaves = leaves_of(model)
    expected = with_value(leaves, slices)
    changed = {path for path in leaves if (expected[path] != leaves[path]).any()}
    assert changed == {path for path in leaves if "/mlp/" in path or "/moe/" in path} - {
        path for path in leaves if path.endswith(("mlp/down/bias", "shared_gate/kernel"))
    }
    tensors = load_file(directory / "model.safetensors")
    for one in tensor_slices(model.config, slices):
        tensors[one.name][one.within] = 0
    save_file(tensors, directory / "model.safetensors", {"format": "pt"})
    found = leaves_of(convert(directory, tmp_path / "zeroed"))
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, path)
