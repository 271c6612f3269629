"""A sweep against the sets that `identify` writes at each value."""

import csv
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.analysis.settings import EPSILONS, THRESHOLDS, SweepSettings
from sparcom_jax.analysis.sweep import sweep
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection
from sparcom_jax.report.page import report
from sparcom_jax.store.run import Run
from tests import oracles_evaluate as oracle
from tests.synthetic import MIXED, make_run

LABELS = [i % 3 for i in range(18)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", LABELS, groups=MIXED)


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(("selection", "values"), [
    (Selection(), (0.05, 0.3)),
    (Selection("frequency", ties="exact", pool=True), (0.1,)),
    (Selection("threshold"), (0.3, 0.6)),
])  # fmt: skip
def test_a_sweep_is_what_identify_gives_at_every_value(
    run: Run, tmp_path: Path, selection: Selection, values: tuple[float, ...]
) -> None:
    settings = SweepSettings(",".join(map(str, values)), rho=0.4)
    summary = sweep(run, tmp_path / "out/sweep", selection, settings)
    rows = read_rows(tmp_path / "out/sweep/sweep.csv")
    neurons = [name for name in run.groups if name != "expert"]
    assert len(rows) == len(neurons) * len(values) * 3
    swept = summary["swept"]
    assert swept == ("threshold" if selection.selector == "threshold" else "epsilon")
    for value in values:
        sets = sj.identify(run, name="at", **{**selection.of_neurons(), swept: value})
        for group in neurons:
            size = sets.size(group)
            core = oracle.unit_sets(sets.core(group, 0.4))
            unique, everywhere = oracle.unique(core), set.intersection(*core)
            for c, category in enumerate(run.categories):
                (row,) = (row for row in rows if (row["group"], row["category"], float(row["value"])) ==
                          (group, category, value))  # fmt: skip
                assert float(row["mean_set_size"]) == pytest.approx(size[run.category == c].mean())
                share = float(row["mean_set_size"]) / run.groups[group].unit_count
                assert float(row["set_share"]) == pytest.approx(share)
                assert (int(row["core_units"]), int(row["unique_units"])) == (len(core[c]), len(unique[c]))
                for field, part in (("uniqueness", unique[c]), ("general_share", everywhere)):
                    assert row[field] == (f"{len(part) / len(core[c]):.9g}" if core[c] else "")
    page = report(tmp_path / "out", tmp_path / "report.html").read_text()
    assert 'id="own-sweep-sweep"' in page
    assert all(f"own-sweep-sweep-{group}-sweep" in page for group in neurons)


def test_values_by_default(run: Run, tmp_path: Path) -> None:
    for selection, values in ((Selection(), EPSILONS), (Selection("threshold"), THRESHOLDS)):
        sweep(run, tmp_path / "out", selection)
        found = sorted({float(row["value"]) for row in read_rows(tmp_path / "out/sweep.csv")})
        np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("selection", "settings", "message"), [
    (Selection(), SweepSettings(cuts="0.1,a"), "cuts: 'a' is not a number"),
    (Selection(), SweepSettings(cuts="0.1,2"), r"epsilon must be within \(0, 1\], got 2\.0"),
    (Selection("threshold"), SweepSettings(cuts="0"), r"threshold must be within \(0, 1\], got 0\.0"),
    (Selection(), SweepSettings(rho=0.0), r"rho is 0\.0: it must be above 0 and at most 1"),
])  # fmt: skip
def test_bad_settings(run: Run, tmp_path: Path, selection: Selection, settings: SweepSettings, message: str) -> None:
    with pytest.raises(InputError, match=message):
        sweep(run, tmp_path / "out", selection, settings)
    assert not (tmp_path / "out").exists()
