"""Packed attention against plain NumPy, as it runs on CPU and as it runs elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparcom_jax.models.attention import longest_text, packed_attention, query_block, window_for
from tests import oracles

FAR = np.iinfo(np.int32).max
SLOTS = 384
TEXTS = {
    "one": [384],
    "short": [3, 1, 60, 64, 65, 2, 7, 30],
    "long among short": [5, 300, 9, 40],
    "padding": [100],
}


@pytest.fixture(params=["cpu", "tpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(jax, "default_backend", lambda: request.param)
    return request.param


@pytest.mark.parametrize("lengths", TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize(("reach", "cap", "with_sinks"), [(FAR, 0.0, False), (1, 0.0, False), (50, 2.0, True)])
def test_equals_one_token_at_a_time(backend: str, lengths: list[int], reach: int, cap: float, with_sinks: bool) -> None:
    random = np.random.default_rng(0)
    q = random.standard_normal((SLOTS, 4, 8), np.float32)
    k = random.standard_normal((SLOTS, 2, 8), np.float32)
    v = random.standard_normal((SLOTS, 2, 6), np.float32)
    sinks = random.standard_normal(4, np.float32) if with_sinks else None
    used = sum(lengths)
    row = np.concatenate([np.repeat(np.arange(len(lengths)), lengths), np.full(SLOTS - used, len(lengths))])
    position = np.concatenate([*map(np.arange, lengths), np.zeros(SLOTS - used)]).astype(np.int32)
    out = packed_attention(
        *map(jnp.asarray, (q, k, v, row.astype(np.int32), position)),
        window=window_for(max(lengths)),
        reach=None if reach == FAR else jnp.int32(reach),
        cap=cap,
        sinks=None if sinks is None else jnp.asarray(sinks),
    )
    expected = oracles.attention(q, k, v, lengths, reach, cap, sinks)
    np.testing.assert_allclose(np.asarray(out)[:used], expected[:used], rtol=0, atol=2e-6)
    assert np.isfinite(np.asarray(out)).all()


def test_a_window_holds_its_text_and_few_are_compiled(backend: str) -> None:
    windows = {length: window_for(length) for length in range(1, 9000)}
    assert all(longest_text(window) >= length for length, window in windows.items())
    assert all(window % query_block(window) == 0 for window in windows.values())
    assert len(set(windows.values())) == {"cpu": 4, "tpu": 14}[backend]
