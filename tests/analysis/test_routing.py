"""How far categories are routed apart, against plain loops and against labels that are shuffled."""

from pathlib import Path

import numpy as np
import pytest

from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.routing import routing
from sparcom_jax.analysis.settings import EvaluateSettings
from sparcom_jax.resampling import Shuffling, make_draws
from sparcom_jax.store.run import Run
from tests.synthetic import MIXED, make_run, random_masks, write_sets
from tests.synthetic_results import read_table

CATEGORIES = ("A", "B", "C")
LABELS = [i % 3 for i in range(18)]


def found(run: Run) -> dict[tuple[str, int, int], tuple[float, float]]:
    """The shares of every expert, of a category and of the others, by plain loops."""
    selected = run.read("routed/selected_count").astype(np.float64)
    shares = selected / np.maximum(selected.sum(axis=-1, keepdims=True), 1)
    means = [shares[[i for i, label in enumerate(LABELS) if label == c]].mean(axis=0) for c in range(3)]
    return {
        (category, layer, expert): (
            means[c][at, expert], np.mean([means[other][at, expert] for other in range(3) if other != c])
        )
        for c, category in enumerate(CATEGORIES)
        for at, layer in enumerate(run.groups["expert"].layers)
        for expert in range(shares.shape[2])
    }  # fmt: skip


def test_shares_and_distances_are_those_of_plain_loops(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, categories=CATEGORIES)
    write_sets(run, random_masks(run))
    evaluate(run, tmp_path / "out", EvaluateSettings(permutations=19, bootstraps=9))
    expected = found(run)
    rows = read_table(tmp_path / "out/routing.csv")
    assert len(rows) == len(expected)
    distance: dict[tuple[str, int], float] = {}
    for row in rows:
        own, other = expected[row["category"], int(row["layer"]), int(row["expert"])]
        assert float(row["share"]) == pytest.approx(own, rel=1e-6)
        assert float(row["share_elsewhere"]) == pytest.approx(other, rel=1e-6)
        at = row["category"], int(row["layer"])
        distance[at] = distance.get(at, 0) + abs(own - other) / 2
    distances = read_table(tmp_path / "out/routing_distance.csv")
    for row in distances:
        assert float(row["distance"]) == pytest.approx(distance[row["category"], int(row["layer"])], rel=1e-6)
        assert 1 / 20 <= float(row["p_value"]) <= float(row["q_value"]) <= 1
    assert len(distances) == len(distance)


def test_a_dense_model_has_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, categories=CATEGORIES)
    write_sets(run, random_masks(run))
    evaluate(run, tmp_path / "out", EvaluateSettings(permutations=9, bootstraps=9))
    assert read_table(tmp_path / "out/routing.csv") == read_table(tmp_path / "out/routing_distance.csv") == []


def test_a_category_of_its_own_expert_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, categories=CATEGORIES)
    shares = np.full((len(LABELS), *run.groups["expert"].shape), 1 / 3, np.float32)
    shares[np.asarray(LABELS) == 1, 0] = (0.8, 0.1, 0.1)
    monkeypatch.setattr("sparcom_jax.analysis.routing.routing_distribution", lambda run: shares)
    tokens = np.full(len(LABELS), 9, np.uint32)
    routed = routing(run, make_draws(run.category, tokens, 3, Shuffling(199, 18, 0), bootstraps=1))
    assert routed is not None
    assert routed.share[1, 0] == pytest.approx([0.8, 0.1, 0.1])
    assert routed.distance[1, 0] == pytest.approx(0.8 - 1 / 3)
    assert routed.p_value[1, 0] == 1 / 200
    assert routed.null_mean[1, 0] < routed.distance[1, 0] / 2
    assert (routed.p_value[:, 1:] == 1).all()  # all alike in the other layers: every shuffle is as far
