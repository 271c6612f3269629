"""Sets drawn by popularity: their margins, what they come to where units are alike, and what the runs are given."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparcom_jax.analysis import popularity
from sparcom_jax.analysis.overlap import expected_of_all
from sparcom_jax.analysis.popularity import fit_popularity
from sparcom_jax.store.sets import open_sets
from tests.synthetic import MIXED, make_run, random_masks, write_sets

LABELS = [i % 3 for i in range(18)]


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.integers(2, 30))
@settings(max_examples=60, deadline=None)
def test_the_margins_are_those_observed(seed: int, rows: int, units: int) -> None:
    random = np.random.default_rng(seed)
    held = random.random((rows, units)) < random.random((rows, 1)) * random.random(units) * random.choice([0.5, 1, 3])
    found = fit_popularity(held.sum(axis=1), held.sum(axis=0))
    p = found.probability[:, found.kind]
    assert ((p >= 0) & (p <= 1)).all()
    np.testing.assert_allclose(p.sum(axis=1), held.sum(axis=1), atol=0.01)
    np.testing.assert_allclose(p.sum(axis=0), held.sum(axis=0), atol=0.01)
    np.testing.assert_array_equal(found.units, np.bincount(found.kind))


def test_units_as_popular_as_each_other_are_the_hypergeometric_level() -> None:
    sizes = np.array([2, 3, 5, 6])
    found = fit_popularity(sizes, np.full(8, 2))
    np.testing.assert_allclose(found.probability * 8, np.tile(sizes[:, None], 1), atol=1e-3)
    expected = (found.probability * found.units) @ found.probability.T
    np.testing.assert_allclose(expected, expected_of_all(sizes[:, None], 8), atol=1e-3)


def test_odds_are_products() -> None:
    """What makes it the one of largest entropy: the odds ratio of two units is the same in all sets."""
    random = np.random.default_rng(0)
    held = random.random((30, 20)) < random.random(20)
    p = fit_popularity(held.sum(axis=1), held.sum(axis=0)).probability
    inner = p[:, ((p > 0) & (p < 1)).all(axis=0)]
    odds = np.log(inner / (1 - inner))
    np.testing.assert_allclose(odds - odds[:, :1], np.tile(odds[:1] - odds[0, 0], (30, 1)), atol=1e-6)


def test_expected_intersections_of_runs(tmp_path: Path) -> None:
    base, tuned = (make_run(tmp_path / name, LABELS, groups=MIXED) for name in ("base", "tuned"))
    for seed, run in enumerate((base, tuned)):
        write_sets(run, random_masks(run, seed=seed))
    first, second = open_sets(base, "excess"), open_sets(tuned, "excess")
    for group in base.groups:
        masks = [random_masks(run, seed=seed)[group] for seed, run in enumerate((base, tuned))]
        flat = [mask.reshape(*mask.shape[:2], -1) for mask in masks]
        p = []
        for mask in flat:
            fits = [fit_popularity(of.sum(axis=1), of.sum(axis=0)) for of in mask.swapaxes(0, 1)]
            p.append(np.stack([of.probability[:, of.kind] for of in fits], axis=1))
        sizes = [mask.sum(axis=2) for mask in flat]
        found = popularity.expected_of_all(first, group, sizes[0])
        np.testing.assert_allclose(found, np.einsum("ilu,jlu->ij", p[0], p[0]), rtol=1e-9)
        pairs = popularity.expected_of_pairs(first, second, group, (sizes[0], sizes[1]))
        np.testing.assert_allclose(pairs, np.einsum("ilu,ilu->i", *p), rtol=1e-9)
        assert found.mean() == pytest.approx(np.einsum("ilu,jlu->ij", flat[0] * 1.0, flat[0] * 1.0).mean(), rel=0.1)
