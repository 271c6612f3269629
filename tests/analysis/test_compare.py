import csv
import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparcom_jax.analysis import depth, drift
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.correlation import correlate_tables, pearson, spearman
from sparcom_jax.analysis.settings import CompareSettings
from sparcom_jax.errors import InputError
from sparcom_jax.results.tables import TABLES
from sparcom_jax.units.groups import EXPERT_GROUP
from tests import oracles_evaluate as oracle
from tests.synthetic import DENSE, MIXED, make_pair, make_run, random_masks, write_sets

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1]
CATEGORIES = ("CLS", "QA", "SUM")
ROOT = Path(__file__).parents[2]
NAMES = [table.name for table in TABLES["compare"]]
ANY_TWO = ["depth_profile.csv", "matrix_correlation.csv"]
FEW = CompareSettings(permutations=9, bootstraps=40)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def rows_of(category: str) -> list[int]:
    return [i for i, c in enumerate(LABELS) if CATEGORIES[c] == category]


# Depth


masses = st.lists(st.integers(0, 9), min_size=4, max_size=4).filter(any).map(np.array)


@given(masses, masses)
@settings(deadline=None)
def test_distances_between_depth_distributions(p: np.ndarray, q: np.ndarray) -> None:
    places = np.array([0, 0.2, 0.7, 1.0])
    assert depth.wasserstein(p, q, places) == pytest.approx(oracle.wasserstein(p, q, places), abs=1e-12)
    assert depth.jensen_shannon(p, q) == pytest.approx(oracle.jensen_shannon(p, q), abs=1e-12)
    assert depth.jensen_shannon(p, q) == pytest.approx(depth.jensen_shannon(q, p), abs=1e-12)
    assert 0 <= depth.jensen_shannon(p, q) <= 1 + 1e-12
    assert depth.wasserstein(p, q, places) >= abs(depth.mean_depth(p, places) - depth.mean_depth(q, places)) - 1e-12


def test_distances_by_hand() -> None:
    first, last, nothing = np.array([4, 0, 0]), np.array([0, 0, 1]), np.zeros(3)
    places = np.array([0, 0.5, 1.0])
    assert depth.wasserstein(first, last, places) == 1.0
    assert depth.jensen_shannon(first, last) == pytest.approx(1.0)
    assert depth.jensen_shannon(first, first) == 0.0
    assert np.isnan([depth.wasserstein(first, nothing, places), depth.jensen_shannon(nothing, first),
                     depth.mean_depth(nothing, places)]).all()  # fmt: skip


def test_profiles_are_read_between_layers() -> None:
    shares = np.array([[0.0, 1.0, 0.5]])
    grid = np.linspace(0, 1, 5)
    np.testing.assert_allclose(depth.profile(shares, np.array([0, 0.5, 1]), grid), [[0, 0.5, 1, 0.75, 0.5]])
    np.testing.assert_allclose(depth.profile(shares, np.array([0.5, 0.75, 1]), grid), [[0, 0, 0, 1, 0.5]])


# Correlation of category tables


@pytest.mark.parametrize("diagonal", [True, False])
def test_correlation_of_tables_against_those_of_shuffled_labels(diagonal: bool) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4, (2, 30, 4, 4)).astype(float)
    first, second = noise[0] + noise[0].swapaxes(1, 2), noise[1] + noise[1].swapaxes(1, 2)
    second[0] += first[0]
    found = correlate_tables(first, second, diagonal=diagonal)
    assert found.cells == (10 if diagonal else 6)
    cells = [(a, b) for a in range(4) for b in range(a, 4) if diagonal or a != b]
    for method in ("pearson", "spearman"):
        drawn = []
        for one, other in zip(first, second, strict=True):
            x, y = [one[cell] for cell in cells], [other[cell] for cell in cells]
            drawn.append(
                oracle.pearson(oracle.ranks(x), oracle.ranks(y)) if method == "spearman" else oracle.pearson(x, y)
            )
        assert found.value[method] == pytest.approx(drawn[0])
        assert found.null[method] == pytest.approx(np.median(drawn[1:]))
        assert found.p_value[method] == sum(one >= drawn[0] - 1e-9 for one in drawn) / 30


def test_undefined_categories_are_left_out_of_the_correlation() -> None:
    table = np.arange(16.0).reshape(4, 4)
    table = np.stack([table + table.T, table * 0 + 1])
    holed = table.copy()
    holed[:, 2, 2] = np.nan
    found = correlate_tables(table, holed, diagonal=True)
    assert (found.cells, found.value["pearson"]) == (6, pytest.approx(1))
    assert np.isnan(found.null["pearson"])  # a constant table correlates with nothing
    nothing = correlate_tables(table, np.full((2, 4, 4), np.nan), diagonal=True)
    assert nothing.cells == 0
    assert np.isnan([*nothing.value.values(), *nothing.p_value.values()]).all()


def test_correlations() -> None:
    x, y = np.array([3, 1, 2, 2, 7]), np.array([1.0, 0.0, 5.0, 5.0, 4.0])
    assert pearson(x, y) == pytest.approx(oracle.pearson(x, y))
    assert spearman(x, y) == pytest.approx(oracle.pearson(oracle.ranks(list(x)), oracle.ranks(list(y))))
    assert np.isnan([pearson(x, np.ones(5)), spearman(x[:2], y[:2])]).all()


# Drift


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_total_variation_is_a_distance(seed: int) -> None:
    shares = np.random.default_rng(seed).dirichlet(np.ones(3), (3, 2, 4)).astype(np.float32)
    ab, bc, ac = (drift.total_variation(shares[i], shares[j]) for i, j in ((0, 1), (1, 2), (0, 2)))
    assert ((ab >= 0) & (ab <= 1 + 1e-6)).all()
    assert (ac <= ab + bc + 1e-6).all()
    assert not drift.total_variation(shares[0], shares[0]).any()


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
def test_frequency_drift_is_streamed(block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "BLOCK_VALUES", block)
    base, tuned, _, _ = make_pair(tmp_path, LABELS, groups=MIXED)
    told: list[int] = []
    size, change = drift.frequency_drift(base, tuned, "routed", told.append)
    p, q = (run.read("routed/positive_count") / run.token_count[:, None, None, None] for run in (base, tuned))
    np.testing.assert_allclose(size, np.abs(q - p).mean(axis=(2, 3)), rtol=1e-5)
    np.testing.assert_allclose(change, (q - p).mean(axis=(2, 3)), rtol=1e-4, atol=1e-6)
    assert told == [1, 1]


# The whole


def test_tables_of_a_tuned_model(tmp_path: Path) -> None:
    base, tuned, before, after = make_pair(tmp_path, LABELS, groups=MIXED)
    output = tmp_path / "out"
    summary = compare(base, tuned, output, FEW)
    assert summary == json.loads((output / "summary.json").read_text())
    assert (summary["kind"], summary["absent"], summary["tables"]) == ("compare", {}, NAMES)
    assert {path.name for path in output.iterdir()} == {*NAMES, "summary.json"}
    tables = {name: read_table(output / name) for name in NAMES}
    for name, group in base.groups.items():
        units = oracle.unit_sets(before[name]), oracle.unit_sets(after[name])
        layers, layer_units = before[name].shape[1], before[name][0, 0].size
        of_group = {key: [row for row in rows if row.get("group") == name] for key, rows in tables.items()}

        overlaps = of_group["instruction_overlap.csv"]
        for i, row in enumerate(overlaps):
            a, b = units[0][i], units[1][i]
            assert (row["id"], row["category"]) == (f"i{i}", CATEGORIES[LABELS[i]])
            assert [int(row[key]) for key in ("size_base", "size_tuned", "common")] == [len(a), len(b), len(a & b)]
            assert float(row["jaccard"]) == pytest.approx(oracle.overlap("jaccard", a, b))
            assert float(row["chance"]) == pytest.approx(oracle.chance("jaccard", a, b, layers, layer_units))
        for row in of_group["category_overlap.csv"]:
            of_category = [overlaps[i] for i in rows_of(row["category"])]
            for key in ("jaccard", "chance", "chance_popularity"):
                assert float(row[key]) == pytest.approx(np.mean([float(entry[key]) for entry in of_category]))
            assert float(row["ci_low"]) <= float(row["jaccard"]) <= float(row["ci_high"])
            assert int(row["instructions"]) == len(of_category)

        cores = [oracle.cores(sets, [rows_of(category) for category in CATEGORIES], 0.5) for sets in units]
        counted = np.zeros((2, 3, layers))
        for row in of_group["units.csv"]:
            c, at = CATEGORIES.index(row["category"]), group.layers.index(int(row["layer"]))
            old, new = ({unit for unit in core[c] if unit[0] == at} for core in cores)
            found = [int(row[key]) for key in ("base", "tuned", "retained", "gained", "lost")]
            assert found == [len(old), len(new), len(old & new), len(new - old), len(old - new)]
            counted[:, c, at] = len(old), len(new)
        totals = [entry for entry in summary["core_units"] if entry["group"] == name]
        assert [entry["tuned"] for entry in totals] == [len(core) for core in cores[1]]

        places = np.array(group.layers) / 3
        for row in of_group["depth_shift.csv"]:
            c = CATEGORIES.index(row["category"])
            if row["quantity"] == "core_units":
                p, q = counted[:, c]
            else:
                p, q = (masks[name][rows_of(row["category"])].sum(axis=(0, *range(2, masks[name].ndim)))
                        for masks in (before, after))  # fmt: skip
            if not (p.any() and q.any()):
                assert row["wasserstein"] == row["jensen_shannon"] == ""
                continue
            assert float(row["mean_depth_base"]) == pytest.approx(p @ places / p.sum())
            assert float(row["wasserstein"]) == pytest.approx(oracle.wasserstein(p, q, places), abs=1e-9)
            assert float(row["jensen_shannon"]) == pytest.approx(oracle.jensen_shannon(p, q), abs=1e-9)

        if name == EXPERT_GROUP:
            assert not of_group["frequency_drift.csv"]
            continue
        p, q = (run.read(f"{name}/positive_count") / run.token_count.reshape(-1, *[1] * (len(group.shape)))
                for run in (base, tuned))  # fmt: skip
        for row in of_group["frequency_drift.csv"]:
            part = rows_of(row["category"]), group.layers.index(int(row["layer"]))
            assert float(row["mean_absolute_change"]) == pytest.approx(np.abs(q - p)[part].mean(), rel=1e-5)
            assert float(row["mean_change"]) == pytest.approx((q - p)[part].mean(), abs=1e-6)

    f = [run.read("routed/selected_count") / run.read("routed/selected_count").sum(axis=-1, keepdims=True)
         for run in (base, tuned)]  # fmt: skip
    assert len(tables["routing_drift.csv"]) == 3 * 2
    for row in tables["routing_drift.csv"]:
        p, q = (part[rows_of(row["category"]), int(row["layer"]) - 1] for part in f)
        assert float(row["total_variation"]) == pytest.approx(np.abs(q - p).sum(axis=-1).mean() / 2, rel=1e-5)
        of_mean = np.abs(q.mean(axis=0) - p.mean(axis=0)).sum() / 2
        assert float(row["total_variation_of_mean"]) == pytest.approx(of_mean, rel=1e-4)


def test_a_model_compared_with_itself(tmp_path: Path) -> None:
    base, _, _, _ = make_pair(tmp_path, LABELS)
    summary = compare(base, base, tmp_path / "out", FEW)
    assert all(row["jaccard"] == row["ci_low"] == 1 for row in summary["category_overlap"])
    assert all(row["gained"] == row["lost"] == 0 < row["retained"] for row in summary["core_units"])
    assert all(row["wasserstein"] == row["jensen_shannon"] == 0 for row in summary["depth_shift"])
    assert {row["mean_absolute_change"] for row in read_table(tmp_path / "out/frequency_drift.csv")} == {"0"}
    assert all(row["pearson"] == pytest.approx(1) for row in summary["matrix_correlation"])
    assert summary["absent"] == {"routing_drift.csv": "the models have no routed experts"}


def test_two_architectures(tmp_path: Path) -> None:
    dense = make_run(tmp_path / "dense", LABELS, groups=DENSE)
    mixed = make_run(tmp_path / "mixed", LABELS, groups=MIXED, family="qwen2_moe")
    masks = {run: random_masks(run) for run in (dense, mixed)}
    for run, mask in masks.items():
        write_sets(run, mask)
    output = tmp_path / "out"
    compare(dense, dense, output, FEW)
    summary = compare(dense, mixed, output, FEW)
    assert {path.name for path in output.iterdir()} == {*ANY_TWO, "summary.json"}
    assert set(summary["absent"]) == set(NAMES) - set(ANY_TWO)
    assert "different families (llama and qwen2_moe)" in summary["absent"]["units.csv"]

    rows = read_table(output / "matrix_correlation.csv")
    assert {(row["group_base"], row["group_tuned"]) for row in rows} == {("mlp", name) for name in MIXED}
    for row in rows:
        first, second = (_category_table(masks[run][row[key]], row["measure"])
                         for run, key in ((dense, "group_base"), (mixed, "group_tuned")))  # fmt: skip
        for method in ("pearson", "spearman"):
            cells = [(a, b) for a in range(3) for b in range(a, 3) if row["cells"] == "all" or a != b]
            x, y = [first[cell] for cell in cells], [second[cell] for cell in cells]
            x, y = (oracle.ranks(x), oracle.ranks(y)) if method == "spearman" else (x, y)
            assert float(row[method]) == pytest.approx(oracle.pearson(x, y), abs=1e-8)
            assert 1 / (1 + FEW.permutations) <= float(row[f"p_{method}"]) <= 1
            assert -1 <= float(row[f"null_{method}"]) <= 1
        assert int(row["shuffles"]) == FEW.permutations

    profile = [row for row in read_table(output / "depth_profile.csv") if row["group"] == "routed"]
    assert {row["model"] for row in profile} == {"tuned"}
    row = next(row for row in profile if row["category"] == "QA" and row["relative_depth"] == "0.5")
    held = masks[mixed]["routed"][rows_of("QA")].mean(axis=(0, 2, 3))
    assert float(row["set_share"]) == pytest.approx(held.mean())


def test_what_length_alone_makes_alike_is_no_agreement(tmp_path: Path) -> None:
    """Sets that depend on the length only, in two models, and categories that differ in length."""
    labels = [c for c in range(3) for _ in range(40)]
    tokens = [10 + 10 * c + (i % 40) for i, c in enumerate(labels)]
    sides = []
    for seed, name in enumerate(("one", "other")):
        run = make_run(tmp_path / name, labels, token_count=tokens)
        random = np.random.default_rng(seed)
        shift = random.normal(0, 0.05, (*run.groups["mlp"].shape,))
        logit = np.asarray(tokens)[:, None, None] * shift + random.normal(0, 1, (len(labels), *shift.shape))
        mask = logit > np.quantile(logit, 0.8, axis=(1, 2), keepdims=True)
        write_sets(run, {"mlp": mask})
        sides.append(run)
    rows = compare(*sides, tmp_path / "out", dataclasses.replace(FEW, permutations=99))["matrix_correlation"]
    assert all(row["pearson"] > 0.8 for row in rows)
    assert all(row["null_pearson"] > 0.5 and row["p_pearson"] > 0.05 for row in rows)


def _category_table(mask: np.ndarray, measure: str) -> np.ndarray:
    units = oracle.unit_sets(mask)
    values = np.array([[oracle.overlap(measure, a, b) for b in units] for a in units])
    return oracle.cell_table(values, np.eye(3, dtype=int)[LABELS])


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    base, tuned, _, _ = make_pair(tmp_path, LABELS)
    for name in ("one", "two"):
        compare(base, tuned, tmp_path / name, dataclasses.replace(FEW, seed=3))
    for name in [path.name for path in (tmp_path / "one").iterdir()]:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("options", "attributes", "named"),
    [
        ({"digest": "1" * 64}, {}, "different instructions"),
        ({"categories": ("CLS", "QA", "GEN")}, {}, "categories differ"),
        ({}, {"epsilon": 0.1}, r"different ways \(epsilon 0.05 and 0.1\)"),
        ({}, {"ties": "drop"}, r"ties 'include' and 'drop'"),
        ({"done": False}, {}, "incomplete"),
    ],
)
def test_runs_that_do_not_compare(tmp_path: Path, options: dict, attributes: dict, named: str) -> None:
    base = make_run(tmp_path / "base", LABELS)
    tuned = make_run(tmp_path / "tuned", LABELS, **options)
    write_sets(base, random_masks(base))
    write_sets(tuned, random_masks(tuned), **attributes)
    with pytest.raises(InputError, match=named):
        compare(base, tuned, tmp_path / "out", FEW)
    assert not (tmp_path / "out").exists()


def test_models_of_one_family_that_differ_in_size(tmp_path: Path) -> None:
    base = make_run(tmp_path / "base", LABELS)
    other = {"deeper": {"num_layers": 6}, "wider": {"groups": {"mlp": DENSE["mlp"] | {"neuron": 30}}}}
    for (name, options), reason in zip(other.items(), ("4 and 6 layers", r"differ in their units (mlp)"), strict=True):
        run = make_run(tmp_path / name, LABELS, **options)
        for each in (base, run):
            write_sets(each, random_masks(each))
        assert reason in compare(base, run, tmp_path / f"{name}-out", FEW)["absent"]["units.csv"]


def test_the_launcher(tmp_path: Path) -> None:
    make_pair(tmp_path, LABELS)
    flags = [f"--base={tmp_path / 'base'}", f"--output={tmp_path / 'out'}", "--permutations=9", "--bootstraps=9"]
    command = [sys.executable, ROOT / "launch/compare.py", *flags]
    done = subprocess.run([*command, f"--tuned={tmp_path / 'tuned'}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["kind"] == "compare"
    refused = subprocess.run([*command, "--tuned=nowhere"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "nowhere: not a run" in refused.stderr
