"""Alignment against SciPy and plain counting."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from sparcom_jax.analysis.align import align
from sparcom_jax.analysis.settings import AlignSettings
from sparcom_jax.errors import InputError
from sparcom_jax.store.statistics import POSITIVE_COUNT
from tests.synthetic import MIXED, ROWS_PER_WRITE, make_run, random_values, write_attribution
from tests.synthetic_results import read_table

LABELS = [0] * 7 + [1] * 5 + [2] * 9


def test_every_cell_is_plain_counting(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED)
    values = random_values(run)
    made = write_attribution(run, values)
    summary = align(run, tmp_path / "out", AlignSettings(epsilon=0.2))
    rows = read_table(tmp_path / "out" / "alignment.csv")
    assert len(rows) == 3 * (1 + 2 + 2 + 2)
    labels = np.asarray(LABELS)

    def by_category(of_layer: np.ndarray) -> np.ndarray:
        return np.stack(
            [of_layer[labels == category].reshape(-1, of_layer[0].size).mean(axis=0) for category in range(3)]
        )

    for row in rows:
        group, category = row["group"], run.categories.index(row["category"])
        index = run.groups[group].layers.index(int(row["layer"]))
        tokens = run.token_count.reshape(-1, *[1] * len(run.groups[group].sizes))
        means = [
            by_category(of) for of in (run.count(group)[:, index].read().result() / tokens, values[group][:, index])
        ]
        beyond = [one - (one.sum(axis=0) - one) / 2 for one in means]
        k = -(-means[0].shape[1] // 5)
        assert (int(row["units"]), int(row["k"])) == (means[0].shape[1], k)
        assert float(row["chance"]) == pytest.approx(k / means[0].shape[1])
        for suffix, (p, a) in (("", means), ("_over_others", beyond)):
            assert float(row[f"spearman{suffix}"]) == pytest.approx(
                spearmanr(p[category], a[category].astype(np.float32)).statistic, abs=1e-6
            )
            top = [{*np.argsort(-one[category], kind="stable")[:k]} for one in (p, a)]
            assert float(row[f"overlap{suffix}"]) == pytest.approx(len(top[0] & top[1]) / k)
    assert summary["attribution"] == made.record()
    for name, group in summary["groups"].items():
        for category, found in zip(run.categories, group["spearman"], strict=True):
            cells = [float(row["spearman"]) for row in rows if (row["group"], row["category"]) == (name, category)]
            assert found == pytest.approx(np.mean(cells), abs=1e-6)
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary


def test_only_what_is_attributed_is_compared(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    values = random_values(run)
    write_attribution(run, values, per_category=4)
    summary = align(run, tmp_path / "some", AlignSettings(epsilon=0.2))
    assert summary["instructions"] == [4, 4, 4]
    rows = [*range(4), *range(7, 11), *range(12, 16)]
    few = make_run(tmp_path / "few", [0] * 4 + [1] * 4 + [2] * 4, token_count=run.token_count[rows].tolist())
    spec = POSITIVE_COUNT.array(run.groups["mlp"], len(rows), ROWS_PER_WRITE)
    few.store.create_array(spec).write(run.count("mlp").read().result()[rows]).result()
    write_attribution(few, {name: of_group[rows] for name, of_group in values.items()})
    assert align(few, tmp_path / "all", AlignSettings(epsilon=0.2))["groups"] == summary["groups"]


def test_frequency_that_is_attribution_is_aligned_and_its_reverse_is_not(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    p = run.frequency("mlp").read().result()
    write_attribution(run, {"mlp": p})
    write_attribution(run, {"mlp": -p}, "integrated")
    for method, sign in (("gradient", 1.0), ("integrated", -1.0)):
        summary = align(run, tmp_path / method, AlignSettings(method=method))
        of_group = summary["groups"]["mlp"]
        np.testing.assert_allclose([of_group["spearman"], of_group["spearman_over_others"]], sign)
        np.testing.assert_allclose(of_group["overlap"], max(sign, 0.0))


def test_a_category_without_instructions_and_a_run_without_attribution(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0] * 6 + [1] * 6)
    with pytest.raises(InputError, match="the run has no attribution by method gradient"):
        align(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_attribution(run, random_values(run))
    summary = align(run, tmp_path / "out")
    assert summary["groups"]["mlp"]["spearman"][2] is None
    assert None not in summary["groups"]["mlp"]["spearman_over_others"][:2]
