import csv
import dataclasses
import json
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

from sparcom_jax import resampling
from sparcom_jax.analysis import compare, cores, overlap
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import EvaluateSettings
from sparcom_jax.errors import InputError
from sparcom_jax.progress import progress
from sparcom_jax.results.tables import TABLES
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.sets import Sets, open_sets, required_members
from tests import oracles_evaluate as oracle
from tests.synthetic import DENSE, MIXED, make_run, random_masks, write_sets

LABELS = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 0, 1, 2, 2, 1, 0, 0, 2]
ROOT = Path(__file__).parents[2]
NAMES = [table.name for table in TABLES["evaluate"]]
FEW = EvaluateSettings(permutations=39, bootstraps=40)


@pytest.fixture(params=["dense", "mixed"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    groups = DENSE if request.param == "dense" else MIXED
    run = make_run(tmp_path / "run", LABELS, groups=groups)
    write_sets(run, random_masks(run))
    return run


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def intersections(sets: Sets, group: str) -> overlap.Intersections:
    with progress("", 10, "layers") as bar:
        return overlap.all_intersections(sets, group, bar.advance)


# Overlaps of all pairs


@pytest.mark.parametrize("block", [1, 300, 1 << 24])
def test_overlaps_of_all_pairs_are_those_of_python_sets(run: Run, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "BLOCK_VALUES", block)
    monkeypatch.setattr(overlap, "BLOCK_ROWS", 256 if block > 300 else 7)
    sets = open_sets(run, "excess")
    for name, mask in random_masks(run).items():
        layers, layer_units = mask.shape[1], mask[0, 0].size
        units = oracle.unit_sets(mask)
        found = intersections(sets, name)
        chance = overlap.overlaps(overlap.expected_of_all(found.first, layer_units), found.first)
        for measure, value in overlap.overlaps(found.common, found.first).items():
            expected = [[oracle.overlap(measure, a, b) for b in units] for a in units]
            np.testing.assert_allclose(value, expected, atol=1e-15)
            expected = [[oracle.chance(measure, a, b, layers, layer_units) for b in units] for a in units]
            np.testing.assert_allclose(chance[measure], expected, atol=1e-12)


def test_the_expected_intersection_is_the_mean_over_all_subsets() -> None:
    sizes = np.array([[3, 0], [2, 5]])
    expected = overlap.expected_of_all(sizes, 6)
    by_hand = oracle.mean_common_of_all_subsets(6, 3, 2) + oracle.mean_common_of_all_subsets(6, 0, 5)
    assert expected[0, 1] == pytest.approx(by_hand)


def test_wrong_sizes_are_refused(run: Run, tmp_path: Path) -> None:
    masks = random_masks(run)
    write_sets(run, masks)
    name = next(iter(masks))
    size = run.store.open_array(f"sets/excess/{name}/size").spec().to_json()
    ts.open(size, open=True).result()[4].write(999).result()
    write_stale_summary(tmp_path / "out")
    with pytest.raises(InputError, match=rf"sets/excess/{name}/size: row 4 "):
        evaluate(run, tmp_path / "out", FEW)
    assert not (tmp_path / "out/summary.json").exists()


masks_of_instructions = st.lists(st.lists(st.booleans(), min_size=9, max_size=9), min_size=2, max_size=5)


@settings(max_examples=60, deadline=None)
@given(masks_of_instructions)
def test_overlaps_are_symmetric_shares(rows: list[list[bool]]) -> None:
    mask = np.array(rows).reshape(-1, 3, 3)
    sizes = mask.sum(axis=2)
    common = np.einsum("ilu,jlu->ij", mask.astype(int), mask.astype(int))
    found = overlap.overlaps(common, sizes)
    chance = overlap.overlaps(overlap.expected_of_all(sizes, 3), sizes)
    for measure, value in found.items():
        for table in (value, chance[measure]):
            np.testing.assert_array_equal(table, table.T)
            assert ((table >= 0) & (table <= 1 + 1e-12)).all()
        np.testing.assert_array_equal(value.diagonal(), sizes.sum(axis=1) > 0)
    assert (found["jaccard"] <= found["overlap_coefficient"] + 1e-15).all()


# Cores


@pytest.mark.parametrize("rho", [0.3, 0.5, 1.0])
def test_core_counts_under_every_draw(run: Run, rho: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overlap, "BLOCK_VALUES", 2000)
    sets = open_sets(run, "excess")
    rng = np.random.default_rng(0)
    weights = np.concatenate([
        resampling.one_hot(run.category[None], 3),
        resampling.bootstrap_weights(run.category, 3, 6, rng),
        resampling.half_weights(run.category, 3, 6, rng),
    ])  # fmt: skip
    for name, mask in random_masks(run).items():
        units = oracle.unit_sets(mask)
        with progress("", 10, "layers") as bar:
            size, unique = cores.core_counts(sets, name, rho, weights, bar.advance)
        for r, draw in enumerate(weights):
            drawn = [[i for i, n in enumerate(draw[:, c]) for _ in range(n)] for c in range(3)]
            core = oracle.cores(units, drawn, rho)
            assert size[r].tolist() == [len(mine) for mine in core]
            assert unique[r].tolist() == [len(mine) for mine in oracle.unique(core)]
        observed = cores.core_sets(sets, name, rho)
        assert size[0].tolist() == observed.sum(axis=(1, 2)).tolist()


@given(st.integers(1, 200), st.floats(0.001, 1.0))
def test_required_members_is_the_comparison_of_shares(size: int, rho: float) -> None:
    required = int(required_members(np.array([size]), rho)[0])
    assert [m >= required for m in range(1, size + 1)] == [m >= Fraction(str(rho)) * size for m in range(1, size + 1)]


def test_a_unit_that_just_the_share_holds_is_core(tmp_path: Path) -> None:
    """0.55 * 200 is 110.00000000000001 in floats."""
    run = make_run(tmp_path / "run", [0] * 200, groups={"mlp": {"layers": [0], "neuron": 9}}, categories=("only",))
    mask = np.zeros((200, 1, 9), bool)
    mask[:110, 0, 0] = mask[:109, 0, 1] = mask[:, 0, 2] = True
    write_sets(run, {"mlp": mask})
    sets = open_sets(run, "excess")
    assert np.flatnonzero(sets.core("mlp", 0.55)).tolist() == [0, 2]
    weights = resampling.one_hot(run.category[None], 1)
    assert cores.core_counts(sets, "mlp", 0.55, weights, lambda layers: None)[0].tolist() == [[2]]


@pytest.mark.parametrize("categories", [1, 3, 12])
def test_combinations(categories: int) -> None:
    core = np.random.default_rng(0).random((categories, 2, 30)) < 0.4
    found = dict(cores.combinations(core))
    expected = oracle.combinations(oracle.unit_sets(core))
    if categories > cores.FULL_TABLE_CATEGORIES:
        expected = {chosen: units for chosen, units in expected.items() if units}
    assert found == expected
    assert list(found) == sorted(found, key=lambda chosen: (len(chosen), chosen))
    assert sum(dict(cores.combinations(np.zeros_like(core))).values()) == 0


# The whole


def test_tables_of_a_run(run: Run, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = evaluate(run, output, FEW)
    assert summary == json.loads((output / "summary.json").read_text())
    assert summary["kind"] == "evaluate"
    assert {path.name for path in output.iterdir()} == {*NAMES, "summary.json"}
    tables = {name: read_table(output / name) for name in NAMES}
    rows_of = {c: [i for i, label in enumerate(LABELS) if label == c] for c in range(3)}
    for name, mask in random_masks(run).items():
        group = run.groups[name]
        units = oracle.unit_sets(mask)
        of_group = {key: [row for row in rows if row.get("group") == name] for key, rows in tables.items()}

        assert len(of_group["overlap.csv"]) == 2 * 6
        for row in of_group["overlap.csv"]:
            a, b = (run.categories.index(row[key]) for key in ("category_a", "category_b"))
            values = np.array([[oracle.overlap(row["measure"], x, y) for y in units] for x in units])
            assert float(row["value"]) == pytest.approx(
                oracle.cell_mean(values, rows_of[a], rows_of[b], a == b), rel=1e-8
            )
            n, m = len(rows_of[a]), len(rows_of[b])
            assert int(row["pairs"]) == (n * (n - 1) // 2 if a == b else n * m)
            assert float(row["ci_low"]) <= float(row["ci_high"])
            assert summary["groups"][name]["overlap"][row["measure"]]["value"][b][a] == pytest.approx(
                float(row["value"])
            )

        for row in of_group["contrasts.csv"]:
            cells = {(cell["category_a"], cell["category_b"]): float(cell["value"])
                     for cell in of_group["overlap.csv"] if cell["measure"] == row["measure"]}  # fmt: skip
            a, b = row["category_a"], row["category_b"]
            assert float(row["contrast"]) == pytest.approx((cells[a, a] + cells[b, b]) / 2 - cells[a, b], abs=1e-8)
            assert float(row["ci_low"]) <= float(row["contrast"]) <= float(row["ci_high"])
            assert int(row["instructions"]) == len([row for c in (a, b) for row in rows_of[run.categories.index(c)]])
            assert 1 / 40 <= float(row["p_value"]) <= float(row["q_value"]) <= 1

        core = oracle.cores(units, list(rows_of.values()), 0.5)
        for c, row in enumerate(of_group["uniqueness.csv"]):
            mine = oracle.unique(core)[c]
            assert (int(row["core_units"]), int(row["unique_units"])) == (len(core[c]), len(mine))
            assert row["uniqueness"] == (f"{len(mine) / len(core[c]):.9g}" if core[c] else "")
            everywhere = len(set.intersection(*core))
            assert row["general_share"] == (f"{everywhere / len(core[c]):.9g}" if core[c] else "")
            assert int(row["instructions"]) == len(rows_of[c])
        combined = {row["categories"]: int(row["units"]) for row in of_group["combinations.csv"]}
        named = {"+".join(run.categories[c] for c in chosen): n for chosen, n in oracle.combinations(core).items()}
        assert combined == named
        assert summary["groups"][name]["general_units"] == combined["CLS+QA+SUM"]

        for row in of_group["depth.csv"]:
            c, at = run.categories.index(row["category"]), group.layers.index(int(row["layer"]))
            assert float(row["relative_depth"]) == pytest.approx(int(row["layer"]) / 3)
            assert int(row["core_units"]) == sum(unit[0] == at for unit in core[c])
            assert float(row["core_share"]) == pytest.approx(int(row["core_units"]) / mask[0, 0].size)
            assert float(row["mean_set_size"]) == pytest.approx(mask[rows_of[c], at].sum() / len(rows_of[c]))

        listed = {category: set() for category in run.categories}
        for row in of_group["core_units.csv"]:
            places = [row[dim] for dim in ("expert", "neuron") if dim in group.dims]
            assert all(row[dim] == "" for dim in ("expert", "neuron") if dim not in group.dims)
            unit = (group.layers.index(int(row["layer"])), *map(int, places))
            listed[row["category"]].add(unit)
            holders = rows_of[run.categories.index(row["category"])]
            assert float(row["membership_share"]) == pytest.approx(np.mean([unit in units[i] for i in holders]))
        assert list(listed.values()) == core

        for i, row in enumerate(of_group["instructions.csv"]):
            assert (row["id"], row["category"]) == (f"i{i}", run.categories[LABELS[i]])
            assert (int(row["size"]), int(row["token_count"])) == (len(units[i]), run.token_count[i])


def test_the_same_seed_gives_the_same_files(run: Run, tmp_path: Path) -> None:
    for name in ("one", "two"):
        evaluate(run, tmp_path / name, dataclasses.replace(FEW, seed=3))
    for name in (*NAMES, "summary.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    evaluate(run, tmp_path / "one", dataclasses.replace(FEW, seed=4))
    assert (tmp_path / "one/overlap.csv").read_bytes() != (tmp_path / "two/overlap.csv").read_bytes()


def test_the_order_of_instructions_does_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(LABELS))
    first = make_run(tmp_path / "a", LABELS)
    masks = random_masks(first)
    write_sets(first, masks)
    second = make_run(tmp_path / "b", [LABELS[i] for i in order])
    write_sets(second, {name: mask[order] for name, mask in masks.items()})
    one, two = (evaluate(run, tmp_path / f"{at}", FEW)["groups"]["mlp"] for at, run in enumerate((first, second)))
    for measure in ("jaccard", "overlap_coefficient"):
        for key in ("value", "chance"):
            np.testing.assert_allclose(one["overlap"][measure][key], two["overlap"][measure][key], rtol=1e-12)
    assert one["uniqueness"]["value"] == two["uniqueness"]["value"]


def test_planted_units_are_found_and_noise_is_not(tmp_path: Path) -> None:
    labels = [i % 3 for i in range(60)]
    run = make_run(tmp_path / "run", labels, groups={"mlp": DENSE["mlp"] | {"neuron": 120}})
    write_sets(run, random_masks(run, signal=0.9), "planted")
    write_sets(run, random_masks(run, signal=0.0), "noise")
    settings = EvaluateSettings(permutations=199, bootstraps=50)
    planted, noise = (evaluate(run, tmp_path / name, settings, set_name=name)["groups"]["mlp"]
                      for name in ("planted", "noise"))  # fmt: skip
    table = planted["overlap"]["jaccard"]
    for c in range(3):
        assert table["ci_low"][c][c] > table["chance_popularity"][c][c] > table["chance"][c][c]
        assert planted["uniqueness"]["value"][c] > planted["uniqueness"]["null_mean"][c]
        assert planted["uniqueness"]["ci_low"][c] <= planted["uniqueness"]["value"][c]
        assert planted["uniqueness"]["value"][c] <= planted["uniqueness"]["ci_high"][c]
        assert planted["unique_units"][c] > planted["uniqueness"]["null_unique_units"][c]
        assert planted["uniqueness"]["p_value"][c] < 0.05
    for name, significant in (("planted", True), ("noise", False)):
        rows = read_table(tmp_path / name / "contrasts.csv")
        assert {float(row["q_value"]) < 0.05 for row in rows} == {significant}
        assert {float(row["smallest_p"]) for row in rows} == {1 / 200}
    assert planted["overlap_explained_by"]["category"] > 0.5 > 0.1 > noise["overlap_explained_by"]["category"]
    assert planted["overlap_explained_by"]["length"] < 0.1
    assert noise["core_units"] == [0, 0, 0]
    assert noise["uniqueness"]["value"] == [None, None, None]
    np.testing.assert_allclose(noise["overlap"]["jaccard"]["value"], noise["overlap"]["jaccard"]["chance"], atol=0.03)


def test_length_alone_is_not_significant_within_strata(tmp_path: Path) -> None:
    """S(i) depends on the length only, and so does the category: what is as long in both may be shuffled, no more."""
    labels = [i // 20 for i in range(60)]
    run = make_run(tmp_path / "run", labels, token_count=[10 + 20 * c for c in labels])
    write_sets(run, random_masks(run, signal=0.9))
    summary = evaluate(run, tmp_path / "out", dataclasses.replace(FEW, stratum_rows=20))
    rows = read_table(tmp_path / "out/contrasts.csv")
    assert {(row["p_value"], row["q_value"], row["smallest_p"], row["comparable"]) for row in rows} == {
        ("", "", "1", "0")
    }
    untestable = "CLS and QA are untestable: no instruction of one is as long as one of the other."
    assert untestable in summary["cautions"]
    assert summary["cautions"][-1].startswith("No contrast can be significant: the least p-value")
    one = dataclasses.replace(FEW, stratum_rows=60)
    evaluate(run, tmp_path / "out", one)
    assert {float(row["p_value"]) for row in read_table(tmp_path / "out/contrasts.csv")} == {1 / 40}


def test_small_categories_leave_cells_empty(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0, 1, 1, 1], categories=("one", "three", "none"), num_layers=1,
                   groups={"mlp": {"layers": [0], "neuron": 5}}, token_count=[7, 7, 7, 7])  # fmt: skip
    mask = np.zeros((4, 1, 5), bool)
    mask[2:, 0, :2] = mask[0, 0, 4] = mask[1, 0, 3] = True
    write_sets(run, {"mlp": mask})
    summary = evaluate(run, tmp_path / "out", FEW)["groups"]["mlp"]
    rows = {(row["category_a"], row["category_b"]): row for row in read_table(tmp_path / "out/overlap.csv")
            if row["measure"] == "jaccard"}  # fmt: skip
    for cell in (("one", "one"), ("one", "none"), ("none", "none")):
        assert {rows[cell][key] for key in ("value", "chance", "chance_popularity", "ci_low", "ci_high")} == {""}
        assert rows[cell]["pairs"] == "0"
    assert float(rows["one", "three"]["value"]) == 0
    assert float(rows["three", "three"]["value"]) == pytest.approx(1 / 3)
    assert rows["three", "three"]["ci_low"] == ""
    assert {row["contrast"] for row in read_table(tmp_path / "out/contrasts.csv")} == {""}
    assert summary["core_units"] == [1, 2, 0]
    assert summary["uniqueness"]["value"] == [1.0, 1.0, None]
    assert summary["spearman_size_token_count"] is None


def test_a_set_with_an_empty_s_of_i_is_refused(run: Run, tmp_path: Path) -> None:
    masks = random_masks(run)
    name = list(masks)[-1]
    masks[name][[0, 3, 4]] = False
    write_sets(run, masks)
    named = rf"set 'excess': S\(i\) has no unit of {name} for 3 of 18 instructions \(CLS 2, QA 1\); identify with"
    with pytest.raises(InputError, match=named):
        evaluate(run, tmp_path / "out", FEW)
    write_sets(run, random_masks(run), "other")
    for sides in (("excess", "other"), ("other", "excess")):
        with pytest.raises(InputError, match=named):
            compare.compare(*(_named(run, tmp_path / side, side) for side in sides), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _named(run: Run, copy: Path, name: str) -> Run:
    """A copy of the run in which the set of a name is the set `excess`."""
    if not copy.exists():
        shutil.copytree(run.location, copy)
        if name != "excess":
            shutil.rmtree(copy / "sets/excess")
            (copy / "sets" / name).rename(copy / "sets/excess")
    return open_run(copy)


def write_stale_summary(output: Path, kind: str = "evaluate") -> None:
    output.mkdir()
    (output / "summary.json").write_text(json.dumps({"kind": kind}))


def test_bad_input_is_named(run: Run, tmp_path: Path) -> None:
    for rho in (0.0, -1.0, 1.1, float("nan")):
        with pytest.raises(InputError, match="rho is"):
            evaluate(run, tmp_path / "out", EvaluateSettings(rho=rho))
    for name in ("permutations", "bootstraps", "stratum_rows"):
        with pytest.raises(InputError, match=f"{name} is 0: it must be 1 or more"):
            evaluate(run, tmp_path / "out", EvaluateSettings(**{name: 0}))
    with pytest.raises(InputError, match="seed is -1: it must be 0 or more"):
        evaluate(run, tmp_path / "out", EvaluateSettings(seed=-1))
    with pytest.raises(InputError, match="no set 'other'"):
        evaluate(run, tmp_path / "out", set_name="other")
    unfinished = make_run(tmp_path / "unfinished", LABELS, done=False)
    with pytest.raises(InputError, match="incomplete"):
        evaluate(unfinished, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    write_stale_summary(tmp_path / "other", "compare")
    with pytest.raises(InputError, match="kind 'compare'"):
        evaluate(run, tmp_path / "other", FEW)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: cannot hold results"):
        evaluate(run, tmp_path / "file", FEW)


def launch(name: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / f"launch/{name}.py", *flags], capture_output=True, text=True, check=False
    )


def test_the_launcher(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS)
    write_sets(run, random_masks(run))
    flags = f"--run={tmp_path / 'run'}", f"--output={tmp_path / 'out'}", "--permutations=9", "--bootstraps=9"
    done = launch("evaluate", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "out/summary.json").read_text())["settings"]["permutations"] == 9
    refused = launch("evaluate", *flags, "--rho=2")
    assert (refused.returncode, refused.stderr) == (2, "error: rho is 2.0: it must be above 0 and at most 1\n")
