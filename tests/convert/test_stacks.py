"""Every layer's parameters are stored by themselves, and stacked on whatever devices are to have them."""

import math
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P
from safetensors.numpy import load_file

from sparcom_jax.convert import weights
from sparcom_jax.convert.export import save_tensors
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.convert.stacks import Stacks
from sparcom_jax.convert.weights import parameter_groups
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.segments import Segment
from sparcom_jax.models.stored import Stored, stored_params
from tests import checkpoints

ONE = SingleDeviceSharding(jax.devices()[0])
GROUP_BYTES = 100_000


@pytest.fixture(scope="module")
def hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dense layers and those with experts in turns."""
    directory = tmp_path_factory.mktemp("stacks") / "hf"
    return checkpoints.qwen2_moe(directory, mlp_only_layers=[0, 2], num_hidden_layers=5)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "GROUP_BYTES", GROUP_BYTES)


@pytest.fixture
def model(hf: Path, tmp_path: Path) -> ModelDir:
    return convert(hf, tmp_path / "model")


def test_each_array_on_disk_is_of_one_layer(model: ModelDir) -> None:
    stored = stored_params(model.config)
    assert {"layers/0/mlp/gate/kernel", "layers/3/moe/routed/gate", "embed/embedding"} < stored.keys()
    groups = parameter_groups(model.config, model.dtype)
    assert sorted(int(part.name) for part in (model.path / "params").iterdir()) == list(range(len(groups)))
    assert len(groups) > 5
    with ocp.PyTreeCheckpointer() as checkpointer:
        for number, paths in enumerate(groups):
            found = checkpointer.metadata(model.path / "params" / str(number)).item_metadata.tree
            assert {path: leaf.shape for path, leaf in found.items()} == {path: stored[path].shape for path in paths}
            assert sum(4 * math.prod(leaf.shape) for leaf in found.values()) <= GROUP_BYTES or len(found) == 1


@pytest.mark.parametrize("placement", ["pmap", "mesh:2", "mesh:4"])
def test_restored_is_what_was_converted(placement: str, hf: Path, model: ModelDir, tmp_path: Path) -> None:
    """Bit by bit, and every device has its own part of it."""
    assert model.config.segments == (Segment(0, 2, 2), Segment(4, 1, 1))
    shardings = make_placement(placement, model.config).param_shardings(model.config)
    params = model.restore(shardings, "float32")
    for leaf, sharding in zip(jax.tree.leaves(params), jax.tree.leaves(shardings), strict=True):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    save_tensors(model.config, params, tmp_path)
    back, original = (load_file(path / "model.safetensors") for path in (tmp_path, hf))
    assert back.keys() == original.keys()
    for name, tensor in original.items():
        np.testing.assert_array_equal(back[name], tensor, err_msg=name)


def test_restored_in_another_dtype(model: ModelDir) -> None:
    whole, half = (jax.tree.leaves(model.restore(ONE, dtype)) for dtype in ("float32", "bfloat16"))
    for one, other in zip(whole, half, strict=True):
        assert other.dtype == "bfloat16"
        np.testing.assert_array_equal(np.asarray(one).astype("bfloat16"), np.asarray(other))


def test_a_stack_is_filled_where_it_lies() -> None:
    sharding = NamedSharding(jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("model",)), P(None, "model"))
    stacks = Stacks([(3, 4), (2,)], "float32", [sharding, ONE])
    assert stacks.leaves == [None, None]
    rows = [Stored((4,), 0, repeat) for repeat in range(3)]
    assert stacks.abstract(rows[0]).sharding.spec == P("model")
    for number in (2, 0, 1):
        before = stacks.leaves[0]
        stacks.put(rows[number], jax.device_put(np.full(4, number + 1, np.float32), stacks.abstract(rows[0]).sharding))
        assert before is None or before.is_deleted()
    found = stacks.leaves[0]
    assert found is not None
    assert found.sharding.is_equivalent_to(sharding, 2)
    np.testing.assert_array_equal(found, np.asarray([[1] * 4, [2] * 4, [3] * 4], np.float32))
    stacks.put(Stored((2,), 1, None), jax.numpy.ones(2))
    np.testing.assert_array_equal(stacks.leaves[1], np.ones(2, np.float32))
