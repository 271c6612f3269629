"""The kernels that a kind of device has: each counts what a loop counts, and all give the same capture."""

from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparcom_jax.batches.packing import fill
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.kernels import choice
from sparcom_jax.models.kernels.choice import CountingKernel, Kernels
from sparcom_jax.models.kernels.counting import count_by_row, count_by_row_and_expert

COUNTING = get_args(CountingKernel)
ROWS, EXPERTS, COLUMNS = 5, 4, 7


@pytest.mark.parametrize("kernel", COUNTING)
def test_count_by_row(kernel: CountingKernel) -> None:
    random = np.random.default_rng(0)
    row = np.sort(random.integers(0, ROWS + 1, 300))
    hit = random.random((300, COLUMNS)) < 0.3
    expected = [hit[row == text].sum(axis=0) for text in range(ROWS)]
    found = jax.jit(count_by_row, static_argnums=(2, 3))(hit, row, ROWS, kernel)
    assert found.dtype == jnp.uint16
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", COUNTING)
def test_count_by_row_and_expert(kernel: CountingKernel) -> None:
    random = np.random.default_rng(0)
    expert = np.sort(random.integers(0, EXPERTS - 1, 300)).astype(np.int32)  # the last one has no token
    row = np.concatenate([np.sort(random.integers(0, ROWS, (expert == one).sum())) for one in range(EXPERTS)])
    hit = random.random((300, COLUMNS)) < 0.3
    expected = [[hit[(row == text) & (expert == one)].sum(axis=0) for one in range(EXPERTS)] for text in range(ROWS)]
    found = jax.jit(count_by_row_and_expert, static_argnums=(3, 4, 5))(hit, row, expert, ROWS, EXPERTS, kernel)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kernel", COUNTING)
def test_the_longest_text_is_counted_exactly(kernel: CountingKernel) -> None:
    """Also by sums of 16-bit floating point numbers, which stop at 256 where they are kept as such."""
    most = np.iinfo(np.uint16).max
    found = count_by_row(jnp.ones((most, 1), bool), jnp.zeros(most, jnp.int32), 1, kernel)
    np.testing.assert_array_equal(found, [[most]])


def captured(model: ModelDir, kernels: Kernels) -> Any:
    placement = replace(make_placement("pmap", model.config), kernels=kernels)
    random = np.random.default_rng(0)
    lengths = (70, 3, 100, 1, 40)
    texts = [random.integers(0, model.config.vocab_size, length, np.int32) for length in lengths]
    shape = Shape(256, 256, 8)
    batch = fill(shape, texts, [np.ones(length, bool) for length in lengths])
    step = capture_step(model.config, shape, Kept(), placement)
    params = model.restore(placement.param_shardings(model.config), "float32")
    batches = jax.tree.map(lambda leaf: np.stack([leaf] * placement.data), batch)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[0], step(params, batches, None))


@pytest.mark.parametrize("device", ["NVIDIA", "OTHER_GPU", "TPU"])
@pytest.mark.parametrize("family", ["llama", "moe"])
def test_all_devices_capture_the_same(family: str, device: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)
    expected = captured(model, choice.CPU)
    found = captured(model, getattr(choice, device))
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(found), strict=True):
        if one.dtype == np.float32:
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-5)
        else:
            np.testing.assert_array_equal(other, one)


def test_kernels_for() -> None:
    cases = {("cpu", ""): choice.CPU, ("tpu", ""): choice.TPU, ("gpu", "9.0"): choice.NVIDIA,
             ("gpu", "10.0"): choice.NVIDIA, ("gpu", "7.5"): choice.OTHER_GPU, ("gpu", "8.9"): choice.OTHER_GPU,
             ("gpu", "gfx942"): choice.OTHER_GPU, ("gpu", ""): choice.OTHER_GPU}  # fmt: skip
    assert {case: choice.kernels_for(*case) for case in cases} == cases
