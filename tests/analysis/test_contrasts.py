"""Contrasts of two categories against loops over pairs, and what they find and do not find."""

import itertools
import math

import numpy as np
import pytest

from sparcom_jax.analysis.contrasts import contrast, shuffle_pairs
from sparcom_jax.resampling import Shuffling, bootstrap_weights, cell_means
from tests import oracles_evaluate as oracle

SHUFFLING = Shuffling(permutations=199, stratum_rows=8, seed=0)


def symmetric(random: np.random.Generator, rows: int) -> np.ndarray:
    values = random.random((rows, rows))
    return (values + values.T) / 2


def by_loops(values: np.ndarray, first: list[int], second: list[int]) -> float:
    within = oracle.cell_mean(values, first, first, True) + oracle.cell_mean(values, second, second, True)
    return within / 2 - oracle.cell_mean(values, first, second, False)


def test_contrasts_are_means_over_pairs() -> None:
    random = np.random.default_rng(0)
    labels, tokens = np.array([0, 0, 1, 2, 1, 1, 0, 2, 2, 1], np.uint8), np.arange(10, dtype=np.uint32)
    values = symmetric(random, 10)
    resampled = cell_means(values, bootstrap_weights(labels, 3, 50, random))
    for shuffles in shuffle_pairs(labels, tokens, 3, SHUFFLING):
        found = contrast(values, shuffles, resampled)
        drawn = [by_loops(values, shuffles.rows[of].tolist(), shuffles.rows[~of].tolist()) for of in shuffles.of_first]
        assert found.value == pytest.approx(drawn[0])
        assert found.null_mean == pytest.approx(np.mean(drawn[1:]))
        assert found.p_value == sum(one >= drawn[0] - 1e-12 for one in drawn) / 200
        a, b = shuffles.pair
        assert set(shuffles.rows) == {i for i, c in enumerate(labels) if c in (a, b)}
        ends = np.nanquantile((resampled[:, a, a] + resampled[:, b, b]) / 2 - resampled[:, a, b], [0.025, 0.975])
        assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_labels_move_among_instructions_of_similar_length_only() -> None:
    labels = np.array([0, 1, 0, 1, 0, 0, 1, 1], np.uint8)
    tokens = np.array([5, 5, 6, 6, 90, 91, 500, 501], np.uint32)
    (shuffles,) = shuffle_pairs(labels, tokens, 2, Shuffling(99, 4, 0))
    assert shuffles.comparable == 4 + 4
    for of in shuffles.of_first:
        assert of[:4].sum() == of[4:].sum() == 2
    assert 25 < len({tuple(of) for of in shuffles.of_first.tolist()}) <= math.comb(4, 2) ** 2
    assert shuffles.smallest_p == 1 / math.comb(4, 2) ** 2
    assert shuffle_pairs(labels, tokens, 2, Shuffling(9, 4, 0))[0].smallest_p == 1 / 10


def test_a_pair_of_unlike_lengths_is_untestable() -> None:
    labels, tokens = np.repeat([0, 1], 8).astype(np.uint8), np.repeat([10, 99], 8).astype(np.uint32)
    (shuffles,) = shuffle_pairs(labels, tokens, 2, SHUFFLING)
    values = symmetric(np.random.default_rng(0), 16)
    found = contrast(values, shuffles, cell_means(values, bootstrap_weights(labels, 2, 9, np.random.default_rng(0))))
    assert (shuffles.comparable, shuffles.smallest_p) == (0, 1.0)
    assert math.isnan(found.p_value)
    assert math.isfinite(found.value)


def test_a_category_of_one_has_no_contrast() -> None:
    labels, tokens = np.array([0, 1, 1, 1], np.uint8), np.full(4, 7, np.uint32)
    (shuffles,) = shuffle_pairs(labels, tokens, 2, SHUFFLING)
    found = contrast(symmetric(np.random.default_rng(0), 4), shuffles, np.zeros((3, 2, 2)))
    assert np.isnan([found.value, found.p_value, found.low, found.high]).all()


def test_a_category_that_differs_does_not_make_others_differ() -> None:
    """Of four categories one has units of its own; pairs of the others come out as seldom as they should."""
    random = np.random.default_rng(1)
    labels, tokens = np.repeat(np.arange(4), 20).astype(np.uint8), random.integers(5, 50, 80).astype(np.uint32)
    real, null = [], []
    for _ in range(40):
        held = random.random((80, 300)) < 0.2
        held[labels == 3, :40] |= random.random((20, 40)) < 0.5
        common = held.astype(float) @ held.T
        sizes = held.sum(axis=1)
        values = common / (sizes[:, None] + sizes - common)
        resampled = np.zeros((1, 4, 4))
        for shuffles in shuffle_pairs(labels, tokens, 4, Shuffling(99, 24, int(random.integers(1000)))):
            (real if 3 in shuffles.pair else null).append(contrast(values, shuffles, resampled).p_value)
    assert np.mean(np.array(real) < 0.05) == 1
    assert np.mean(np.array(null) < 0.05) < 0.1
    assert 0.4 < np.mean(null) < 0.6
    assert len(null) == 40 * len(list(itertools.combinations(range(3), 2)))
