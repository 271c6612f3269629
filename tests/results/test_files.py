import json
from pathlib import Path

import numpy as np
import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.results.ablation import BASELINE
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import TABLES

SUMMARY = {"kind": "ablate", "run": "runs/base", "model": {"family": "llama"}, "settings": {},
           "set": {"name": "frequency", "run": "/runs/base", "digest": "0"}, "categories": ("A", "B"),
           "controls": {}, "absent": {}, "targets": {}}  # fmt: skip


def test_a_table_is_plain_csv(tmp_path: Path) -> None:
    rows = [("a, b", 3, 1, np.uint32(4), 1 / 3), ('"c"', np.int64(-1), 0, 0, np.float32("nan")), ("", 0, 1, 0, 1e-12)]
    write_table(tmp_path, BASELINE, rows)
    assert (tmp_path / "baseline.csv").read_bytes() == (
        b'category,instructions,held_out,tokens,nll\n"a, b",3,1,4,0.333333333\n"""c""",-1,0,0,\n,0,1,0,1e-12\n'
    )


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "baseline.csv").mkdir()
    with pytest.raises(InputError, match=r"baseline\.csv: cannot be written \(Is a directory\)"):
        write_table(tmp_path, BASELINE, [("A", 1, 2, 3, 4)])
    (tmp_path / "summary.json.unfinished").mkdir()
    with pytest.raises(InputError, match=r"summary\.json: cannot be written \(Is a directory\)"):
        write_summary(tmp_path, SUMMARY)
    assert not (tmp_path / "summary.json").exists()


@pytest.mark.parametrize("row", [("A", 1, 2, 3), ("A", 1, 2, 3, 4, 5)])
def test_a_row_of_another_length_is_an_error(tmp_path: Path, row: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=rf"baseline\.csv: a row of {len(row)} values for 5 columns"):
        write_table(tmp_path, BASELINE, [row])


def test_a_summary_is_plain_json(tmp_path: Path) -> None:
    more = {"matrix": np.array([[1.5, np.nan]]), "count": np.int64(3), 4: float("inf")}
    made = write_summary(tmp_path, SUMMARY | more)
    assert made == json.loads((tmp_path / "summary.json").read_text())
    assert made == {"schema_version": 5, **SUMMARY, "categories": ["A", "B"], "matrix": [[1.5, None]], "count": 3,
                    "4": None}  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_a_summary_of_another_shape_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"summary\.json: set: no field 'digest'") as error:
        write_summary(tmp_path, SUMMARY | {"set": {"name": "frequency", "run": "/runs/base"}})
    assert not isinstance(error.value, InputError)  # the input is not at fault
    assert not [*tmp_path.iterdir()]


def test_what_an_earlier_analysis_left_is_removed(tmp_path: Path) -> None:
    start_results(tmp_path / "out", "ablate")
    write_summary(tmp_path / "out", SUMMARY)
    for name in ("baseline.csv", "notes.txt"):
        (tmp_path / "out" / name).write_text("")
    with pytest.raises(InputError, match=r"summary\.json: holds results of kind 'ablate', not 'compare'"):
        start_results(tmp_path / "out", "compare")
    start_results(tmp_path / "out", "ablate")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]
    assert "baseline.csv" in [table.name for table in TABLES["ablate"]]
