import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from sparcom_jax import resampling
from tests import oracles_evaluate as oracle


def test_cell_means_are_means_over_pairs() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 0, 1, 1, 2, 1, 0], np.uint8)
    values = rng.random((8, 8))
    values = (values + values.T) / 2
    weights = np.concatenate([
        resampling.one_hot(labels[None], 3),
        resampling.one_hot(resampling.shuffle_labels(labels, np.zeros(8, np.int64), 70, rng), 3),
        resampling.bootstrap_weights(labels, 3, 70, rng),
    ])  # fmt: skip
    found = resampling.cell_means(values, weights)
    assert np.isnan(found[:, 2, 2]).all()
    for table, draw in zip(found, weights, strict=True):
        np.testing.assert_allclose(table, oracle.cell_table(values, draw), rtol=1e-12)


def test_category_means_are_weighted_means() -> None:
    rng = np.random.default_rng(0)
    weights = resampling.bootstrap_weights(np.array([0, 1, 1, 1], np.uint8), 3, 5, rng)
    values = rng.random((4, 2))
    found = resampling.category_means(values, weights)
    assert np.isnan(found[:, 2]).all()
    for r in range(5):
        np.testing.assert_allclose(found[r, 1], np.average(values, axis=0, weights=weights[r, :, 1]))


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=12), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_shuffles_keep_categories_within_strata(rows: list[tuple[int, int]], seed: int) -> None:
    labels, strata = np.array([c for c, _ in rows], np.uint8), np.array([s for _, s in rows])
    for shuffled in resampling.shuffle_labels(labels, strata, 4, np.random.default_rng(seed)):
        for stratum in range(3):
            inside = strata == stratum
            assert sorted(shuffled[inside]) == sorted(labels[inside])


def test_strata_are_quantiles_and_keep_equal_lengths_together() -> None:
    strata = resampling.length_strata(np.array([1, 9, 2, 8, 5, 5, 5, 5], np.uint32), 4)
    np.testing.assert_array_equal(strata, [0, 1, 0, 1, 1, 1, 1, 1])
    assert set(resampling.length_strata(np.arange(100), 20).tolist()) == {0, 1, 2, 3, 4}
    assert not resampling.length_strata(np.arange(7), 7).any()


def test_bootstrap_keeps_category_sizes() -> None:
    labels = np.array([0, 1, 2, 0, 1, 2, 0, 0], np.uint8)
    weights = resampling.bootstrap_weights(labels, 4, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(weights.sum(axis=1), np.tile(np.bincount(labels, minlength=4), (50, 1)))
    assert not weights[:, labels == 0, 1:].any()


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 1.0]), min_size=1, max_size=20), st.sampled_from([0.1, 0.3, 1.0]))
def test_p_values_count_both_tails(draws: list[float], observed: float) -> None:
    found = resampling.two_sided_p(np.array([observed, np.nan]), np.array([draws, draws]).T)
    assert found[0] == pytest.approx(oracle.two_sided_p(observed, draws))
    assert np.isnan(found[1])


def test_undefined_draws_are_left_out() -> None:
    draws = np.array([[np.nan, np.nan], [0.2, np.nan], [0.4, np.nan]])
    np.testing.assert_array_equal(resampling.mean_of_draws(draws), [0.30000000000000004, np.nan])
    np.testing.assert_allclose(resampling.interval(draws), [[0.205, np.nan], [0.395, np.nan]])
    np.testing.assert_allclose(resampling.two_sided_p(np.array([0.5, 0.5]), draws), [2 / 3, 1.0])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=15))
def test_q_values(p: list[float]) -> None:
    found = resampling.benjamini_hochberg(np.array([*p, np.nan]))
    assert np.isnan(found[-1])
    np.testing.assert_allclose(found[:-1], oracle.q_values(p), rtol=1e-12)
    np.testing.assert_allclose(found[:-1], false_discovery_control(p), rtol=1e-12)
    assert (found[:-1] >= np.array(p) - 1e-15).all()
    assert (np.diff(found[:-1][np.argsort(p, kind="stable")]) >= 0).all()
