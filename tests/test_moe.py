"""Routing and the two dispatch kernels, against a loop over tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparcom_jax.models.config import Experts
from sparcom_jax.models.moe import RoutedExperts, block_size, dispatch, route

SLOTS, REAL, EXPERTS, WIDTH, NEURONS, PER_TOKEN = 160, 150, 6, 16, 24, 2


def routed(seed: int = 0) -> tuple[RoutedExperts, jax.Array, np.ndarray]:
    random = np.random.default_rng(seed)
    experts = RoutedExperts(WIDTH, Experts(EXPERTS, PER_TOKEN, NEURONS, normalize=False), "silu", nnx.Rngs(seed))
    chosen = np.stack([random.permutation(EXPERTS)[:PER_TOKEN] for _ in range(SLOTS)])
    chosen[REAL:] = EXPERTS
    return experts, jnp.asarray(random.standard_normal((SLOTS, WIDTH)), jnp.float32), chosen


@pytest.mark.parametrize("kernel", ["in_blocks", "ragged"])
@pytest.mark.parametrize("one_expert", [False, True])
def test_each_token_passes_its_experts(kernel: str, one_expert: bool) -> None:
    experts, x, chosen = routed()
    if one_expert:
        chosen[:REAL] = [3, 1]  # more of one expert than a piece holds
    edit = jnp.asarray(np.random.default_rng(2).random((EXPERTS, NEURONS)), jnp.float32)
    block = 16 if kernel == "in_blocks" else 1
    plan = dispatch(jnp.asarray(chosen), EXPERTS, block)
    entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
    if kernel == "in_blocks":
        outputs, gate, product = experts.in_blocks(entries, plan, block, edit)
    else:
        outputs, gate, product = experts.ragged(entries, plan, edit)
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
    chosen, weight = route(jnp.asarray(logits), experts, jnp.asarray(real), jnp.asarray(keep))
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
