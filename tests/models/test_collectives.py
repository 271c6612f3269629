"""Gradients on devices that share a model, against those on one device."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.placement import EDIT_SPECS, make_placement
from sparcom_jax.models.collectives import replicated_input, sum_over
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.edits import Edits
from tests import checkpoints
from tests.models.losses import batch_of, losses
from tests.models.test_edits import random_edits

VARIANTS = [0, 1, 0, 1, 1, 0]
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "shared expert": ("qwen2_moe", {"mlp_only_layers": [0], "norm_topk_prob": True}),
    "biases of experts, sinks": ("gpt_oss", {}),
    "latent attention": ("deepseek_v2", {}),
    "latent attention, full queries": ("deepseek_v2", {"q_lora_rank": None}),
    "norm over all heads": ("olmo2", {}),
    "norm of each head": ("qwen3", {}),
    "parallel, layer norm": ("gpt_neox", {}),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    family, fields = MODELS[request.param]
    directory = tmp_path_factory.mktemp("gradients")
    checkpoints.save_model(directory / "hf", family, **{"num_hidden_layers": 2} | fields)
    return convert(directory / "hf", directory / "model")


def gradients_step(config: DecoderConfig, axis: str | None) -> Any:
    """A function that gives losses, and their gradients with respect to parameters and edits."""

    def step(params: Any, batch: Any, edits: Edits) -> Any:
        def total(params: Any, edits: Edits) -> Any:
            found = losses(config, params, batch, edits._replace(expert=mask), axis=axis)
            return jnp.sum(found), found

        mask, edits = edits.expert, edits._replace(expert=None)
        with jax.default_matmul_precision("highest"):
            (_, found), gradient = jax.value_and_grad(total, (0, 1), has_aux=True)(params, edits)
        return found, *gradient

    return step


@pytest.fixture(scope="module")
def expected(model: ModelDir) -> Any:
    params = model.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32")
    edits = random_edits(model.config, 2)
    return jax.tree.map(np.asarray, jax.jit(gradients_step(model.config, None))(params, batch_of(VARIANTS), edits))


@pytest.mark.parametrize("parts", [2, 4])
def test_devices_that_share_a_model_have_its_gradients(parts: int, model: ModelDir, expected: Any) -> None:
    placement = make_placement(f"mesh:{parts}", model.config)
    shardings = placement.param_shardings(model.config)
    specs = jax.tree.map(lambda sharding: sharding.spec, shardings)
    step = placement.compile(gradients_step(model.config, placement.axis), model.config, EDIT_SPECS,
                             (P(), specs, EDIT_SPECS._replace(expert=None)))  # fmt: skip
    batches = jax.tree.map(lambda leaf: np.stack([leaf] * placement.data), batch_of(VARIANTS))
    edits = placement.put(random_edits(model.config, 2), EDIT_SPECS)
    found = step(model.restore(shardings, "float32"), batches, edits)
    for (path, one), other in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True):
        name = jax.tree_util.keystr(path)
        largest = np.abs(one).max()
        assert largest > 0, name
        for of_device in np.asarray(other):
            np.testing.assert_allclose(of_device, one, rtol=0, atol=1e-5 * largest, err_msg=name)


def test_the_pair_is_nothing_on_one_device() -> None:
    x = jnp.ones(3)
    assert sum_over(x, None) is x
    assert replicated_input(x, None) is x
