"""Routing and the kernels of the routed experts, against a loop over tokens."""

from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparcom_jax.models.config import Experts
from sparcom_jax.models.edits import NeuronEdit
from sparcom_jax.models.kernels.choice import ExpertsKernel
from sparcom_jax.models.kernels.experts import ExpertMLPs, arrange, block_size, blockwise_matmul, run_experts
from sparcom_jax.models.moe import RoutedExperts
from sparcom_jax.models.routing import route

SLOTS, REAL, EXPERTS, WIDTH, NEURONS, PER_TOKEN = 160, 150, 6, 16, 48, 2


def routed(seed: int = 0) -> tuple[RoutedExperts, jax.Array, np.ndarray]:
    random = np.random.default_rng(seed)
    experts = RoutedExperts(WIDTH, Experts(EXPERTS, PER_TOKEN, NEURONS, normalize=False), "silu", nnx.Rngs(seed))
    chosen = np.stack([random.permutation(EXPERTS)[:PER_TOKEN] for _ in range(SLOTS)])
    chosen[REAL:] = EXPERTS
    return experts, jnp.asarray(random.standard_normal((SLOTS, WIDTH)), jnp.float32), chosen


@pytest.mark.parametrize("kernel", get_args(ExpertsKernel))
@pytest.mark.parametrize("one_expert", [False, True])
def test_each_token_passes_its_experts(kernel: ExpertsKernel, one_expert: bool) -> None:
    experts, x, chosen = routed()
    if one_expert:
        chosen[:REAL] = [3, 1]  # more of one expert than a piece holds
    edit = jnp.asarray(np.random.default_rng(2).random((EXPERTS, NEURONS)), jnp.float32)
    variant = jnp.zeros(SLOTS, jnp.int32)
    outputs, gate, product, plan = experts(x, jnp.asarray(chosen), NeuronEdit(edit[None]), variant, None, kernel)
    gate_proj, up_proj, down_proj = (np.asarray(w[...]) for w in (experts.gate, experts.up, experts.down))
    for slot in range(REAL):
        for choice, expert in enumerate(chosen[slot]):
            entry = int(plan.entry[slot, choice])
            assert (int(plan.slot[entry]), int(plan.expert[entry])) == (slot, expert)
            expected = np.asarray(jax.nn.silu(np.asarray(x[slot]) @ gate_proj[expert]))
            np.testing.assert_allclose(gate[entry], expected, atol=1e-5)
            expected = expected * (np.asarray(x[slot]) @ up_proj[expert])
            np.testing.assert_allclose(product[entry], expected, atol=1e-5)
            expected = (expected * np.asarray(edit[expert])) @ down_proj[expert]
            np.testing.assert_allclose(outputs[entry], expected, atol=1e-5)
    assert (plan.entry[REAL:] == len(plan.slot)).all()
    np.testing.assert_array_equal(plan.tokens, np.bincount(chosen.ravel(), minlength=EXPERTS + 1)[:EXPERTS])
    assert (np.asarray(plan.slot) < REAL).sum() == REAL * PER_TOKEN


@pytest.mark.parametrize("kernel", get_args(ExpertsKernel))
def test_one_of_several_layers_with_biases(kernel: ExpertsKernel) -> None:
    """Weights that are stacked over layers, biases, and the gradient of all that is trained or edited."""
    _, x, chosen = routed()
    random = np.random.default_rng(3)
    names = {"gate": (WIDTH, NEURONS), "up": (WIDTH, NEURONS), "down": (NEURONS, WIDTH)}
    stacked = {name: random.standard_normal((3, EXPERTS, *shape), np.float32) / 4 for name, shape in names.items()}
    stacked |= {f"{name}_bias": random.standard_normal((3, EXPERTS, shape[1]), np.float32)
                for name, shape in names.items()}  # fmt: skip
    edit = jnp.asarray(random.random((EXPERTS, NEURONS)), jnp.float32)

    def loss(weights: dict[str, Any], edit: Any, x: Any, place: Any, kernel: ExpertsKernel) -> Any:
        plan, block = arrange(jnp.asarray(chosen), EXPERTS, EXPERTS, kernel)
        entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
        experts = ExpertMLPs(
            weights, lambda gate, up: (jnp.tanh(gate), jnp.tanh(gate) * up), NeuronEdit(edit[None]), None, place
        )
        outputs, *_ = run_experts(entries, plan, block, experts, kernel)
        mine = jnp.take(outputs, plan.entry, axis=0, mode="fill", fill_value=0)
        return jnp.sum(jnp.sin(mine)), mine

    def found(weights: dict[str, Any], place: Any, kernel: ExpertsKernel) -> Any:
        gradient, mine = jax.grad(loss, argnums=(0, 1, 2), has_aux=True)(weights, edit, x, place, kernel)
        return mine, gradient

    mine, (of_weights, *others) = found(stacked, jnp.int32(1), kernel)
    alone, (of_own_weights, *others_alone) = found({name: w[1] for name, w in stacked.items()}, None, "ragged")
    np.testing.assert_allclose(mine, alone, atol=1e-5)
    for name, gradient in of_weights.items():
        assert not np.delete(np.asarray(gradient), 1, axis=0).any()
        np.testing.assert_allclose(gradient[1], of_own_weights[name], atol=1e-4)
    for one, other in zip(others, others_alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


@pytest.mark.parametrize("kernel", ["triton", "blocks"])
@pytest.mark.parametrize("sizes", [(48, 80), (64, 256), (24, 40)])
def test_blockwise_matmul(kernel: ExpertsKernel, sizes: tuple[int, int]) -> None:
    """Also of sizes that Triton cannot cut into tiles; blocks that are not used come out finite."""
    random = np.random.default_rng(0)
    x, weight = (jnp.asarray(random.standard_normal(shape), jnp.float32) for shape in ((80, sizes[0]), (3, *sizes)))
    group = np.asarray([2, 0, 0, 1, 2])
    y = np.asarray(blockwise_matmul(x, weight, jnp.asarray(group), jnp.int32(3), kernel))
    for block in range(3):
        rows = slice(16 * block, 16 * block + 16)
        np.testing.assert_allclose(y[rows], np.asarray(x)[rows] @ np.asarray(weight)[group[block]], atol=1e-4)
    assert np.isfinite(y).all()


def test_block_size() -> None:
    sizes = {(0, 8): 16, (1024, 8): 32, (2048 * 4, 60): 32, (8192 * 4, 60): 128, (10**6, 8): 128, (1025, 8): 32}
    assert {case: block_size(*case) for case in sizes} == sizes


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("groups", [1, 3])
def test_route(normalize: bool, groups: int) -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((SLOTS, EXPERTS)).astype(np.float32)
    real = np.arange(SLOTS) < REAL
    keep = np.array([True, True, False, True, True, True])
    experts = Experts(EXPERTS, PER_TOKEN, 1, normalize, scale=2.5, groups=groups, groups_per_token=2)
    chosen, weight = route(jnp.asarray(logits), experts, jnp.asarray(real), jnp.asarray(keep)[None])
    for slot in range(REAL):
        masked = np.where(keep, np.exp(logits[slot].astype(np.float64)), 0)
        probability = masked / masked.sum()
        if groups > 1:
            of_group = probability.reshape(groups, -1).max(axis=1)
            probability *= np.repeat(np.isin(np.arange(groups), np.argsort(-of_group)[:2]), EXPERTS // groups)
        best = np.argsort(-probability)[:PER_TOKEN]
        np.testing.assert_array_equal(chosen[slot], best)
        expected = 2.5 * probability[best] / (probability[best].sum() if normalize else 1)
        np.testing.assert_allclose(weight[slot], expected, rtol=1e-5)
    assert (chosen[REAL:] == EXPERTS).all()
    assert not weight[REAL:].any()
    assert not (np.asarray(chosen) == 2).any()
