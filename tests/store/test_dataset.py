"""A run as an xarray tree: what its labels select, against plain NumPy, and that nothing is read too early."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray

import sparcom_jax as sj
from sparcom_jax.store.units import origin_of, unit_set_arrays, write_units
from tests.synthetic import MIXED, make_run, random_masks, write_attribution, write_sets

CATEGORIES = ("MATH", "QA", "SUM")
LABELS = [0, 1, 0, 1, 2, 1, 0, 1, 0]  # one of SUM alone
OF_ATTRIBUTION = 2


@pytest.fixture
def run(tmp_path: Path) -> sj.Run:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, categories=CATEGORIES)
    write_sets(run, random_masks(run))
    random = np.random.default_rng(0)
    values = {name: random.random((len(LABELS), *group.shape)).astype(np.float32) for name, group in run.groups.items()}
    write_attribution(run, values, per_category=OF_ATTRIBUTION)
    score = {name: of[: len(CATEGORIES)] for name, of in values.items()}
    mask = {name: of > 0.5 for name, of in score.items()}
    write_units(run, "some", sj.UnitSet(run.categories, run.groups, score, mask, origin_of(run, "some")))
    for parent in ("sets", "attribution"):  # as identify and attribute do
        run.store.write_group(parent)
    for name in run.groups:
        run.store.write_group(f"sets/excess/{name}")
        run.store.write_group(f"attribution/gradient/{name}")
    return run


def ids(labels: list[int]) -> list[str]:
    return [f"i{i}" for i in labels]


@pytest.mark.filterwarnings("ignore:Object at .* is not recognized")
def test_without_this_package_it_is_as_it_was(run: sj.Run) -> None:
    tree = xarray.open_datatree(run.location, engine="zarr", consolidated=False)
    np.testing.assert_array_equal(tree["instruction/category"], run.category)
    assert not tree["mlp"].xindexes.keys() & {"instruction", "category"}


def test_a_category_its_ids_and_the_models_layers(run: sj.Run) -> None:
    tree, counts = run.dataset(), run.read("routed/positive_count")
    rows = np.flatnonzero(run.category == 1)
    array = tree["routed/positive_count"]
    assert array.sel(category="QA").instruction.values.tolist() == ids(rows.tolist())
    np.testing.assert_array_equal(array.sel(category="QA"), counts[rows])
    np.testing.assert_array_equal(array.sel(category="QA", layer=2), counts[rows, 1])
    np.testing.assert_array_equal(array.sel(instruction="i4", layer=1), counts[4, 0])
    np.testing.assert_array_equal(array.sel(category=["SUM", "MATH"]), counts[run.category != 1])  # order of the run
    alone = array.sel(category="SUM")
    assert alone.dims == array.dims
    assert alone.category.values.tolist() == ["SUM"]
    np.testing.assert_array_equal(tree["routed"].sel(category="QA").positive_count, counts[rows])
    by_category = tree["instruction/token_count"].groupby("category").sum()
    expected = {name: int(run.token_count[run.category == at].sum()) for at, name in enumerate(CATEGORIES)}
    assert dict(zip(by_category.category.values, by_category.values.tolist(), strict=True)) == expected
    p = array / tree["instruction/token_count"]
    np.testing.assert_allclose(p, run.frequency("routed").read().result(), rtol=1e-6)


def test_a_category_of_the_whole_tree(run: sj.Run) -> None:
    tree = run.dataset().sel(category="QA")
    rows = np.flatnonzero(run.category == 1)
    np.testing.assert_array_equal(tree["instruction/token_count"], run.token_count[rows])
    np.testing.assert_array_equal(tree["shared/positive_count"], run.read("shared/positive_count")[rows])
    sets = sj.open_sets(run, "excess")
    np.testing.assert_array_equal(tree["sets/excess/mlp/membership"], sets.membership("mlp")[1])
    np.testing.assert_array_equal(tree["sets/excess/mlp/mask"], run.read("sets/excess/mlp/mask")[rows])
    np.testing.assert_array_equal(tree["sets/excess/mlp/size"], sets.size("mlp")[rows])
    np.testing.assert_array_equal(tree["units/some/expert/score"], sj.open_units(run, "some").score["expert"][1])
    attributed = run.first_rows(OF_ATTRIBUTION)
    kept = np.flatnonzero(run.category[attributed] == 1)
    found = tree["attribution/gradient/routed/value"]
    assert found.instruction.values.tolist() == ids(attributed[kept].tolist())
    np.testing.assert_array_equal(found, run.read("attribution/gradient/routed/value")[kept])
    alone = run.dataset()["sets/excess/mlp/size"].sel(instruction_category="QA")
    np.testing.assert_array_equal(alone, sets.size("mlp")[rows])


def test_what_has_other_layers_or_instructions_is_left_out(run: sj.Run) -> None:
    tree = run.dataset().sel(layer=2)
    assert "mlp" not in tree
    np.testing.assert_array_equal(tree["routed/selected_count"], run.read("routed/selected_count")[:, 1])
    np.testing.assert_array_equal(tree["instruction/token_count"], run.token_count)
    last = int(np.flatnonzero(run.category == 1)[-1])
    tree = run.dataset().sel(instruction=f"i{last}")
    np.testing.assert_array_equal(tree["mlp/positive_count"], run.read("mlp/positive_count")[last])
    assert "value" not in tree["attribution/gradient"].get("mlp", {})
    for wrong in ({"category": "CODE"}, {"layer": 9}, {"instruction": "j"}, {"colour": "red"}):
        with pytest.raises(KeyError):
            run.dataset().sel(**wrong)
    with pytest.raises(KeyError, match="category 'CODE' is not among MATH, QA, SUM"):
        run.dataset()["mlp/positive_count"].sel(category=["QA", "CODE"])


def test_nothing_is_read_before_it_is_needed(run: sj.Run) -> None:
    """Counts, masks and values are spoilt: they can be opened and selected from, but not read."""
    spoilt = [*Path(run.location).glob("*/positive_count/c/**/*"), *Path(run.location).glob("sets/*/*/mask/c/**/*"),
              *Path(run.location).glob("attribution/*/*/value/c/**/*")]  # fmt: skip
    files = [file for file in spoilt if file.is_file()]
    assert len(files) > 6
    for file in files:
        file.write_bytes(b"spoilt")
    tree = run.dataset().sel(category="QA")
    for path in ("mlp/positive_count", "sets/excess/routed/mask", "attribution/gradient/shared/value"):
        assert tree[path].sizes["layer"] > 0
        with pytest.raises(Exception, match=r"(?s)."):
            tree[path].load()


def test_a_capture_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, categories=CATEGORIES, done=False)
    assert "category" in run.dataset()["mlp"].xindexes
    (tmp_path / "run/instructions.jsonl").unlink()
    with pytest.raises(sj.InputError, match=r"instructions\.jsonl: missing"):
        sj.open_run(run.location).dataset()


def test_units_of_other_categories_keep_their_numbers(run: sj.Run) -> None:
    """What an older capture left there fits no labels, and hides none of the others."""
    fewer: Any = sj.UnitSet(["A", "B"], *(of for of in _two(run)), origin_of(run, "old"))
    store = run.store
    for name, group in fewer.groups.items():
        store.write_group(f"units/old/{name}")
        for spec in unit_set_arrays("old", group, 2):
            if spec.name.endswith("score"):
                store.create_array(spec).write(fewer.score[name]).result()
    store.write_group("units/old", {"categories": ["A", "B"]})
    tree = run.dataset()
    assert tree["units/old/mlp/score"].dims[0] == "category"
    assert "category" not in tree["units/old/mlp"].xindexes
    assert "category" in tree["units/some/mlp"].xindexes


def _two(run: sj.Run) -> tuple[Any, Any, Any]:
    score = {name: np.ones((2, *group.shape), np.float32) for name, group in run.groups.items()}
    return run.groups, score, {name: of > 0 for name, of in score.items()}
