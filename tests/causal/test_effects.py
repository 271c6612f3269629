"""Effects, selectivity, p-values and intervals against plain counting, on made-up likelihoods."""

import numpy as np
import pytest

from sparcom_jax.causal.effects import Effects, Measured
from sparcom_jax.resampling import bootstrap_weights, one_hot

SIZE, DRAWS = 3, 39


@pytest.fixture(scope="module")
def effects() -> Effects:
    """Categories of 8, 6 and 5 instructions; only the units of the first do harm, and to the first alone."""
    random = np.random.default_rng(0)
    category = np.repeat(np.arange(SIZE), (8, 6, 5)).astype(np.uint8)
    baseline = random.uniform(1, 3, len(category))
    nll = baseline + random.normal(0, 0.05, (SIZE, len(category)))
    nll[0, category == 0] += 1.0
    means = np.array([baseline[category == c].mean() for c in range(SIZE)])
    controls = {"random": means + random.normal(0, 0.05, (DRAWS, SIZE, SIZE))}
    weights = np.concatenate([one_hot(category[None], SIZE), bootstrap_weights(category, SIZE, 500, random)])
    return Effects(Measured(np.array([4, 5, 6]), nll, controls), baseline, weights)


def plain_delta(effects: Effects) -> np.ndarray:
    labels = effects.weights[0].argmax(axis=1)
    return np.array([[(nll - effects.baseline)[labels == c].mean() for c in range(SIZE)]
                     for nll in effects.measured.nll])  # fmt: skip


def plain_selectivity(delta: np.ndarray) -> list[float]:
    return [delta[c, c] - np.mean([delta[c, o] for o in range(SIZE) if o != c]) for c in range(SIZE)]


def plain_p(observed: float, drawn: np.ndarray) -> float:
    above, below = sum(value >= observed for value in drawn), sum(value <= observed for value in drawn)
    return min(1.0, 2 * (1 + min(above, below)) / (1 + len(drawn)))


def test_effects_are_means_over_instructions(effects: Effects) -> None:
    delta = plain_delta(effects)
    np.testing.assert_allclose(effects.delta, delta)
    np.testing.assert_allclose(effects.selectivity, plain_selectivity(delta))


def test_p_values_count_draws_on_both_sides(effects: Effects) -> None:
    against, delta = effects.against["random"], plain_delta(effects)
    for off in range(SIZE):
        drawn = [plain_selectivity(one)[off] for one in against.delta]
        assert against.p_selectivity[off] == pytest.approx(plain_p(effects.selectivity[off], np.array(drawn)))
        for other in range(SIZE):
            expected = plain_p(delta[off, other], against.delta[:, off, other])
            assert against.p_value[off, other] == pytest.approx(expected)
    assert against.p_value[0, 0] == against.smallest_p == pytest.approx(2 / (1 + DRAWS))
    assert (against.q_value >= against.p_value - 1e-12).all()
    assert against.q_value[0, 0] == pytest.approx(min(1.0, SIZE * SIZE * against.smallest_p / sum(
        p <= against.smallest_p for p in against.p_value.reshape(-1))))  # fmt: skip


def test_intervals_are_over_instructions(effects: Effects) -> None:
    low, high = effects.delta_interval
    assert ((low < effects.delta) & (effects.delta < high)).all()
    labels = effects.weights[0].argmax(axis=1)
    values = (effects.measured.nll[0] - effects.baseline)[labels == 0]
    width = 2 * 1.96 * values.std() / np.sqrt(len(values))  # of the mean of draws with replacement
    assert high[0, 0] - low[0, 0] == pytest.approx(width, rel=0.25)
    low, high = effects.selectivity_interval
    assert low[0] > 0.5
    assert (low[1:] < 0).all()
    assert (high[1:] > 0).all()
