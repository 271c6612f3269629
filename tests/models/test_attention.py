"""Packed attention against plain NumPy, by each of its kernels."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparcom_jax.models.kernels.attention import longest_text, packed_attention, query_block, window_for
from sparcom_jax.models.kernels.choice import AttentionKernel
from sparcom_jax.models.kernels.packed import Packed, Scoring
from tests import oracles

KERNELS = get_args(AttentionKernel)
FAR = np.iinfo(np.int32).max
SLOTS = 640
TEXTS = {
    "one": [640],
    "short": [3, 1, 60, 64, 65, 2, 7, 30],
    "long among short": [5, 300, 9, 40],
    "on the edge of a size": [63, 321],
    "padding": [100],
}


def inputs(lengths: list[int]) -> list[jax.Array]:
    """Queries of 4 heads, keys and values of 2, and which text and position each slot holds."""
    random = np.random.default_rng(0)
    q, k, v = (random.standard_normal((SLOTS, *shape), np.float32) for shape in [(4, 8), (2, 8), (2, 6)])
    padding = SLOTS - sum(lengths)
    row = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), np.full(padding, len(lengths))])
    position = np.concatenate([*map(np.arange, lengths), np.zeros(padding)])
    return [*map(jnp.asarray, (q, k, v, row.astype(np.int32), position.astype(np.int32)))]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("lengths", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize(("sliding_window", "cap", "with_sinks"), [(FAR, 0.0, False), (1, 0.0, False), (34, 2.0, True)])
def test_equals_one_token_at_a_time(
    kernel: AttentionKernel, lengths: list[int], sliding_window: int, cap: float, with_sinks: bool
) -> None:
    q, k, v, row, position = inputs(lengths)
    sinks = jax.random.normal(jax.random.key(1), 4) if with_sinks else None
    used = sum(lengths)
    scoring = Scoring(None if sliding_window == FAR else jnp.int32(sliding_window), cap, sinks)
    out = packed_attention(Packed(q, k, v, row, position), scoring, window_for(max(lengths), kernel), kernel)
    expected = oracles.attention(*map(np.asarray, (q, k, v)), lengths, sliding_window, cap, sinks)
    np.testing.assert_allclose(np.asarray(out)[:used], expected[:used], rtol=0, atol=2e-6)
    assert np.isfinite(np.asarray(out)).all()


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_window_holds_its_text_and_few_are_compiled(kernel: AttentionKernel) -> None:
    windows = {length: window_for(length, kernel) for length in range(1, 9000)}
    assert all(longest_text(window) >= length for length, window in windows.items())
    assert all(window % query_block(window) == 0 for window in windows.values())
    assert len(set(windows.values())) == (14 if kernel == "one_window" else 4)


def test_all_have_the_same_gradient() -> None:
    lengths = TEXTS["long among short"]
    q, k, v, row, position = inputs(lengths)

    def loss(kernel: AttentionKernel, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        out = packed_attention(Packed(q, k, v, row, position), Scoring(), 512, kernel)
        return jnp.sum(jnp.sin(out[: sum(lengths)]))

    first, *others = (jax.grad(loss, argnums=(1, 2, 3))(kernel, q, k, v) for kernel in KERNELS)
    for other in others:
        for one, two in zip(first, other, strict=True):
            np.testing.assert_allclose(np.asarray(one), np.asarray(two), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kernel", KERNELS)
def test_fewest_slots_that_there_are(kernel: AttentionKernel) -> None:
    q, k, v, row, position = (x[:64] for x in inputs([30, 34, 576]))
    out = packed_attention(Packed(q, k, v, row, position), Scoring(), window_for(34, kernel), kernel)
    expected = oracles.attention(*map(np.asarray, (q, k, v)), [30, 34], FAR, 0.0, None)
    np.testing.assert_allclose(np.asarray(out), expected[:64], rtol=0, atol=2e-6)
