"""What is read of results against what was written, and what is said of results that are not whole."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.errors import InputError
from sparcom_jax.results.ablation import ABLATION, BASELINE, SUFFICIENCY
from sparcom_jax.results.reader import find_results
from sparcom_jax.results.tables import DEPTH, TABLES
from sparcom_jax.store.run import open_run
from tests.synthetic import make_pair, write_sets
from tests.synthetic_results import (
    ABLATE,
    ACROSS,
    ALIGN,
    CATEGORIES,
    COMPARE,
    COMPARED,
    EVALUATE,
    EVALUATED,
    EXPLORE,
    LABELS,
    edit,
    make_results,
    read_table,
    replace,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"))


def test_results_are_found_in_the_order_of_the_report(results: Path) -> None:
    found = find_results(results)
    assert [(one.kind, one.name) for one in found] == [
        ("evaluate", EVALUATE), ("compare", ACROSS), ("compare", COMPARE), ("ablate", ABLATE),
        ("align", ALIGN), ("explore", EXPLORE),
    ]  # fmt: skip
    assert [list(one.sides) for one in found] == [
        ["model"], ["base", "tuned"], ["base", "tuned"], ["model"], ["model"], ["model"],
    ]  # fmt: skip
    for one in found:
        absent = one.summary.get("absent", {})
        assert [*one.tables] == [table for table in TABLES[one.kind] if table.shown and table.name not in absent]
        for table, rows in one.tables.items():
            assert one.path(table) == f"{one.name}/{table.name}"
            assert len(rows) == len(read_table(one.directory / table.name))
            assert rows or table is SUFFICIENCY
            assert all(tuple(row) == table.names for row in rows)


def test_values_are_numbers_text_and_what_is_not_defined(results: Path) -> None:
    evaluated, *_, ablated, _, _ = find_results(results)
    written = read_table(results / EVALUATE / "depth.csv")
    assert evaluated.tables[DEPTH] == [
        {name: value if name in ("group", "category") else int(value) if value.isdecimal() else float(value)
         for name, value in row.items()}
        for row in written
    ]  # fmt: skip
    assert {type(row["layer"]) for row in evaluated.tables[DEPTH]} == {int}
    assert evaluated.of_group(DEPTH, "mlp") == [row for row in evaluated.tables[DEPTH] if row["group"] == "mlp"]
    draws = [row["draw"] for row in ablated.tables[ABLATION] if row["target"] == "neurons"]
    assert draws == [
        draw for _ in CATEGORIES for kind in ([None], range(1, 6), range(1, 6)) for draw in kind for _ in CATEGORIES
    ]
    assert [row["category"] for row in ablated.tables[BASELINE]] == list(CATEGORIES)


def test_a_result_may_be_the_directory_itself(results: Path) -> None:
    (found,) = find_results(results / ABLATE)
    assert (found.name, found.path(BASELINE)) == (".", "baseline.csv")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: edit(d / EVALUATE, lambda s: s.pop("schema_version")),
         r"evaluate/summary\.json: schema_version is None, this version reads 5; make these results again"),
        (lambda d: edit(d / ABLATE, lambda s: s.update(schema_version=9)), r"ablate/summary\.json: schema_version is"),
        (lambda d: edit(d / ACROSS, lambda s: s["base"]["set"].pop("digest")), r"base: set: no field 'digest'"),
        (lambda d: (d / "evaluate/overlap.csv").unlink(), r"evaluate/overlap\.csv: cannot be read"),
        (lambda d: (d / "ablate/baseline.csv").unlink(), r"ablate/baseline\.csv: cannot be read"),
        (lambda d: (d / "evaluate/summary.json").write_text("{"), r"evaluate/summary\.json: not JSON"),
        (lambda d: (d / "evaluate/summary.json").write_text("[]"), r"evaluate/summary\.json: not a JSON object"),
        (lambda d: edit(d / EVALUATE, lambda s: s.pop("groups")), r"evaluate/summary\.json: no field 'groups'"),
        (lambda d: edit(d / EVALUATE, lambda s: s["groups"]["mlp"].pop("units")), "groups: mlp: no field 'units'"),
        (lambda d: edit(d / EVALUATE, lambda s: s.update(run=3)), "run: 3 is of the wrong type"),
        (lambda d: edit(d / EVALUATE, lambda s: s["instructions"].pop()), "instructions: not of the size"),
        (lambda d: edit(d / ACROSS, lambda s: s.update(absent=[])), "absent: not an object"),
        (lambda d: edit(d / ACROSS, lambda s: s.update(absent={})), r"category_overlap\.csv: cannot be read"),
        (lambda d: edit(d / ABLATE, lambda s: s["targets"]["neurons"]["delta"].pop()), "delta: not of the size"),
        (lambda d: replace(d / "evaluate/depth.csv", "core_share", "share"), r"depth\.csv: no column 'core_share'"),
        (lambda d: replace(d / "evaluate/depth.csv", "mlp,", "mlp,x,"), r"depth\.csv: row 1: 8 values for 7 columns"),
        (lambda d: replace(d / "ablate/ablation.csv", ",6,", ",six,"), "row 1: instructions: 'six' is not a number"),
        (lambda d: replace(d / "ablate/ablation.csv", ",6,", ",nan,"), "row 1: instructions: 'nan' is not a number"),
        (lambda d: replace(d / "ablate/baseline.csv", "SUM", "MUS"), "row 3: category: 'MUS' is not a category"),
        (lambda d: (d / "evaluate/depth.csv").write_bytes(b"\xff\xfe"), r"depth\.csv: not a CSV file"),
    ],
)  # fmt: skip
def test_bad_results_are_named(results: Path, tmp_path: Path, break_it: Callable[[Path], object], message: str) -> None:
    shutil.copytree(results, tmp_path / "copy")
    break_it(tmp_path / "copy")
    with pytest.raises(InputError, match=message) as error:
        find_results(tmp_path / "copy")
    assert "\n" not in str(error.value)


def test_results_of_two_versions_of_a_set_are_not_mixed(tmp_path: Path) -> None:
    base, tuned, before, _ = make_pair(tmp_path / "runs", LABELS, categories=CATEGORIES)
    results = tmp_path / "results"
    evaluate(base, results / "evaluate", EVALUATED)
    again = before["mlp"].copy()
    again[0, 0, 0] ^= True
    write_sets(base, {"mlp": again})
    compare(open_run(f"{base.location}/"), tuned, results / "pair", COMPARED)
    with pytest.raises(InputError) as error:
        find_results(results)
    assert str(error.value) == (
        f"{results / 'evaluate'} and {results / 'pair'}: made of two versions of set 'excess' of {base.location}; "
        f"make the results of the earlier one again"
    )
    evaluate(base, results / "evaluate", EVALUATED)
    assert [result.kind for result in find_results(results)] == ["evaluate", "compare"]


def test_no_results(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory"):
        find_results(tmp_path / "nowhere")
    (tmp_path / "summary.json").write_text('{"kind": "benchmark"}')
    with pytest.raises(InputError, match=rf"no results \(no summary\.json written by {', '.join(TABLES)} below"):
        find_results(tmp_path)
