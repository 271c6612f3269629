"""Summaries of results: that their numbers are those of the tables, and that warnings are what the results record."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.analysis.agree import agree
from sparcom_jax.analysis.settings import AgreeSettings, SweepSettings
from sparcom_jax.analysis.sweep import sweep
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection
from sparcom_jax.results.answers import ANSWER_TEXTS, ANSWERS
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.numbers import UNDEFINED, Digits
from sparcom_jax.store.run import open_run
from sparcom_jax.summaries.ablation import fixed
from sparcom_jax.summaries.results import summary_of
from sparcom_jax.summaries.screen import laid_out
from sparcom_jax.summaries.studies import HEADLINES, summary_of_all
from sparcom_jax.summaries.summary import Cell, Summary
from tests.synthetic_results import (
    ABLATE,
    ACROSS,
    ALIGN,
    CATEGORIES,
    COMPARE,
    EVALUATE,
    edit,
    make_results,
    read_table,
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_results(tmp_path_factory.mktemp("results"))


def rows_of(summary: Summary, table: int = 0) -> list[list[Cell]]:
    return [list(row) for row in summary.tables[table].rows]


def mean(rows: list[dict[str, str]], field: str) -> float | None:
    values = [float(row[field]) for row in rows if row[field]]
    return float(np.mean(values)) if values else None


def content(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return found


def test_evaluate(results: Path) -> None:
    directory = results / EVALUATE
    shown, written = summary_of(directory), content(directory)
    overlap = [row for row in read_table(directory / "overlap.csv") if row["measure"] == "jaccard"]
    unique = read_table(directory / "uniqueness.csv")
    assert [row[0] for row in rows_of(shown)] == list(written["groups"])
    for name, units, size, within, chance_within, between, chance_between, uniqueness, general in rows_of(shown):
        of = [row for row in overlap if row["group"] == name]
        inside = [row for row in of if row["category_a"] == row["category_b"]]
        outside = [row for row in of if row["category_a"] != row["category_b"]]
        group = written["groups"][str(name)]
        assert (units, size, general) == (group["units"], group["mean_set_size"], group["general_units"])
        means = [mean(part, field) for part in (inside, outside) for field in ("value", "chance_popularity")]
        wanted = [*means, mean([row for row in unique if row["group"] == name], "uniqueness")]
        for found, expected in zip((within, chance_within, between, chance_between, uniqueness), wanted, strict=True):
            assert (found is None) == (expected is None)
            assert found is None or abs(float(found) - float(expected or 0)) < 1e-6
    by_category = rows_of(shown, 1)
    assert [row[:2] for row in by_category] == [[name, 6] for name in CATEGORIES]
    assert list(shown.warnings) == written["cautions"]
    assert written["cautions"]
    assert shown.next[0][:2] == ["sparcom report", f"--results={results}"]


def test_compare(results: Path) -> None:
    directory = results / COMPARE
    shown = summary_of(directory)
    units, overlap = read_table(directory / "units.csv"), read_table(directory / "category_overlap.csv")
    (table,) = shown.tables
    groups = table.columns[1:]
    assert len(groups) == 4
    for category, *cells in table.rows:
        for group, cell in zip(groups, cells, strict=True):
            of = [row for row in units if (row["group"], row["category"]) == (group, category)]
            kept, gained, lost = (sum(int(row[field]) for row in of) for field in ("retained", "gained", "lost"))
            (same,) = [row for row in overlap if (row["group"], row["category"]) == (group, category)]
            assert cell == f"{float(same['jaccard']):#.3g}, {kept} +{gained} -{lost}"
    assert not shown.warnings
    assert dict(shown.facts)["base"].startswith("set excess of ")


def test_compare_of_two_architectures(results: Path) -> None:
    shown = summary_of(results / ACROSS)
    expected = [row for row in read_table(results / ACROSS / "matrix_correlation.csv")
                if (row["measure"], row["cells"]) == ("jaccard", "between")]  # fmt: skip
    assert len(rows_of(shown)) == len(expected)
    for (name, cells, *_, p_value), row in zip(rows_of(shown), expected, strict=True):
        assert (name, cells) == (f"{row['group_base']}, {row['group_tuned']}", int(row["cell_count"]))
        assert p_value == (float(row["p_pearson"]) if row["p_pearson"] else None)
    (warning,) = shown.warnings
    assert warning.startswith("Not compared, because the models are of different families")


def test_ablate(results: Path) -> None:
    directory = results / ABLATE
    shown, written = summary_of(directory), content(directory)
    selectivity = read_table(directory / "selectivity.csv")
    effects = {(row["target"], row["category_off"]): row for row in read_table(directory / "effects.csv")
               if row["category_off"] == row["category_measured"]}  # fmt: skip
    (table,) = shown.tables
    columns = ("units of", "category", "own", "95% interval", "others", "random", "matched", "p", "units")
    assert tuple(table.columns) == columns
    assert len(table.rows) == len(selectivity) == 6
    for (target, category, own, interval, others, random, matched, p_value, off), row in zip(
        table.rows, selectivity, strict=True
    ):
        assert (target, category, off) == (row["target"], row["category"], int(row["units_off"]))
        effect = effects[row["target"], row["category"]]
        for found, expected in ((own, row["own"]), (others, row["others"]), (random, row["own_random"]),
                                (matched, row["own_matched"])):  # fmt: skip
            assert found == f"{float(expected):.4f}"
        assert interval == f"[{float(effect['ci_low']):.4f}, {float(effect['ci_high']):.4f}]"
        assert abs(float(str(p_value)) - max(float(effect["p_random"]), float(effect["p_matched"]))) < 1e-6
    draws, smallest = written["settings"]["draws"], 2 / (1 + written["settings"]["draws"])
    assert dict(shown.facts)["measured on"] == f"18 responses; {draws} random draws, smallest p {smallest:.3f}"
    weak, few, chose = shown.warnings
    assert weak == f"{draws} random draws give no p below {smallest:.3f}: no effect can be significant."
    assert few.startswith("Few responses are scored (")
    assert "; below 20)" in few
    assert chose == "Some of these instructions chose the units, which flatters them."


def test_ablate_with_many_draws_and_no_matched_control(results: Path, tmp_path: Path) -> None:
    directory = copied(results / ABLATE, tmp_path)

    def change(summary: dict[str, Any]) -> None:
        summary["settings"]["draws"] = 99
        summary["absent"] = {"random_matched": "the capture kept sets"}
        for target in summary["targets"].values():
            del target["controls"]["random_matched"]
            target["controls"]["random"]["smallest_p"] = 0.02

    edit(directory, change)
    shown = summary_of(directory)
    assert "matched" not in shown.tables[0].columns
    assert shown.warnings[0] == "No random_matched units: the capture kept sets."
    assert not any("significant" in warning for warning in shown.warnings)


def copied(directory: Path, root: Path) -> Path:
    made = root / directory.name
    made.mkdir()
    for path in directory.iterdir():
        (made / path.name).write_bytes(path.read_bytes())
    return made


def test_ablate_that_keeps(results: Path, tmp_path: Path) -> None:
    directory = copied(results / ABLATE, tmp_path)
    edit(directory, lambda summary: summary["settings"].update(keep=True))
    header = (directory / "sufficiency.csv").read_text().splitlines()[0].split(",")
    lines = [",".join(header)]
    same = {"instructions": 6, "held_out": 0, "ci_low": 0.1, "ci_high": 0.9}
    for target, units_kept, (at, name), (measured, other) in itertools.product(
        ("neurons", "experts"), (5, 2), enumerate(CATEGORIES), enumerate(CATEGORIES)
    ):
        value = {"target": target, "category_kept": quoted(name), "category_measured": quoted(other), **same,
                 "units_kept": units_kept, "recovered": units_kept / 10 + at / 100 + measured,
                 "recovered_random": 0.25, "recovered_matched": 0.5}  # fmt: skip
        lines.append(",".join(str(value.get(field, 1)) for field in header))
    (directory / "sufficiency.csv").write_text("\n".join(lines) + "\n")
    (table,) = summary_of(directory).tables
    assert len(table.rows) == 6
    for number, row in enumerate(table.rows):
        at = number % 3
        own, others = 0.5 + at / 100 + at, 0.5 + at / 100 + (3 - at) / 2
        expected = [CATEGORIES[at], f"{own:.4f}", "[0.1000, 0.9000]", f"{others:.4f}", "0.2500", "0.5000", 5]
        assert list(row) == [("neurons", "experts")[number // 3], *expected]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def test_transfer(results: Path, tmp_path: Path) -> None:
    directory = copied(results / ABLATE, tmp_path)
    origin = {"model": {"source": "hub/other"}, "instructions": {"source": "a.jsonl"}, "instructions_in_common": 4}
    edit(directory, lambda summary: summary.update(units_from=origin))
    warning = "The units were chosen by another run, of hub/other; 4 instructions in common."
    assert summary_of(directory).warnings[-1] == warning


def test_align(results: Path) -> None:
    directory = results / ALIGN
    shown, written = summary_of(directory), content(directory)
    for (name, correlation, beyond, overlap, _, chance), (group, of) in zip(
        rows_of(shown), written["groups"].items(), strict=True
    ):
        assert (name, chance) == (group, of["chance"])
        expected = [float(np.mean(of[field])) for field in ("spearman", "spearman_over_others", "overlap")]
        np.testing.assert_allclose([float(str(value)) for value in (correlation, beyond, overlap)], expected)
    assert [row[0] for row in rows_of(shown, 1)] == list(CATEGORIES)


def test_sweep_and_agree(results: Path, tmp_path: Path) -> None:
    run = open_run(results.parent / "runs" / "base")
    sweep(run, tmp_path / "sweep", Selection(), SweepSettings(cuts="0.1,0.3"))
    written = read_table(tmp_path / "sweep/sweep.csv")
    rows = rows_of(summary_of(tmp_path / "sweep"))
    assert len(rows) == len(written) / 3
    for group, value, size, core, *_ in rows:
        of = [row for row in written if row["group"] == group and float(row["value"]) == value]
        expected = [mean(of, "mean_set_size"), mean(of, "core_units")]
        np.testing.assert_allclose([float(str(size)), float(str(core))], expected, rtol=1e-6)
    agree(run, tmp_path / "agree", sj.SelectSettings(size=5, expert_size=1), AgreeSettings("difference,core"))
    written = read_table(tmp_path / "agree/agreement.csv")
    rows = rows_of(summary_of(tmp_path / "agree"))
    assert [row[:3] for row in rows] == [["neurons", "difference", "core"], ["experts", "difference", "core"]]
    of_neurons = [row for row in written if row["target"] == "neurons"]
    np.testing.assert_allclose(float(str(rows[0][4])), mean(of_neurons, "jaccard"), rtol=1e-6)


def write_answers(output: Path) -> None:
    start_results(output, "answer")
    rows: list[list[object]] = [["", "none", "", "", name, 8, 4 + at, (4 + at) / 8, 0, "", ""]
                                for at, name in enumerate(CATEGORIES[:2])]  # fmt: skip
    for off in CATEGORIES[:2]:
        for at, name in enumerate(CATEGORIES[:2]):
            rows.append(["neurons", "auroc", "", off, name, 8, 1, 1 / 8, -(3 + at) / 8, -0.5, -0.1])
            rows += [["neurons", "random", draw, off, name, 8, draw, draw / 8, 0, -0.5, 0.5] for draw in (2, 4)]
    write_table(output, ANSWERS, rows)
    write_table(output, ANSWER_TEXTS, [])
    made = {"name": "auroc", "run": "r", "digest": "0", "selector": "auroc"}
    write_summary(output, {
        "kind": "answer", "run": "r", "model": {"family": "llama"}, "units": made,
        "settings": {"new_tokens": 48, "draws": 2}, "categories": CATEGORIES, "asked": [8, 8, 0], "held_out": 0,
        "targets": ["neurons"],
    })  # fmt: skip


def test_answer(tmp_path: Path) -> None:
    write_answers(tmp_path / "answer")
    shown = summary_of(tmp_path / "answer")
    own = [1 / 8, 3 / 8]
    assert rows_of(shown) == [[name, 8, (4 + at) / 8, *own, -(3 + at) / 8, "[-0.500, -0.100]"]
                              for at, name in enumerate(CATEGORIES[:2])]  # fmt: skip
    few, chose = shown.warnings
    assert few == f"Few are asked, because few answers can be settled ({CATEGORIES[0]} 8, {CATEGORIES[1]} 8, SUM 0)."
    assert chose == "These instructions chose the units, which flatters them."


def test_all_results_of_a_study(results: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_bytes(b"x" * 1_300_000)
    write_answers(results / "answer")
    shown = summary_of_all("analyze: here", results, page)
    lines = {str(name): str(line) for name, line in rows_of(shown)}
    assert list(lines) == ["ablate", "answer", "compare/across", COMPARE, "evaluate", "explore", "align"]
    of_neurons = [row for row in read_table(results / ABLATE / "selectivity.csv") if row["target"] == "neurons"]
    own, others, random = (mean(of_neurons, field) for field in ("own", "others", "own_matched"))
    expected = f"neurons: loss {own:+.4f}, of others {others:+.4f}, random {random:+.4f}; experts"
    assert lines["ablate"].startswith(expected)
    assert lines["answer"] == "neurons right 0.562, own off 0.125, random off 0.375"
    assert lines["compare/across"] == "models of two architectures, not unit by unit"
    within = mean([row for row in read_table(results / EVALUATE / "overlap.csv") if row["measure"] == "jaccard"
                   and row["group"] == "mlp" and row["category_a"] == row["category_b"]], "value")  # fmt: skip
    assert lines["evaluate"].startswith(f"mlp within {within:#.3g}, between ")
    facts = dict(shown.facts)
    assert facts["results"] == "1 evaluate, 2 compare, 1 ablate, 1 answer, 1 align, 1 explore"
    assert facts["page"].startswith("1.3 MB")
    assert HEADLINES.keys() == sj.results.tables.TABLES.keys()


def test_names_that_a_terminal_would_act_on(results: Path) -> None:
    for place in (EVALUATE, COMPARE, ACROSS, ABLATE, ALIGN):
        screen = laid_out(summary_of(results / place), 120)
        assert all(one.isprintable() for line, _ in screen.body for one in line)
        assert any("</script><b>x&" in line for line, _ in screen.body) or place == ACROSS


def test_fixed() -> None:
    values = (0.12345, -0.00001, -2.5, 3)
    assert [fixed(value) for value in values] == ["0.1235", "0.0000", "-2.5000", "3.0000"]
    assert (fixed(None), type(fixed(None))) == (UNDEFINED, Digits)


def test_what_is_no_result(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"summary.json: cannot be read"):
        summary_of(tmp_path)
    (tmp_path / "summary.json").write_text('{"kind": "other"}')
    with pytest.raises(InputError, match=r"summary.json: field kind is 'other', none of evaluate, compare, "):
        summary_of(tmp_path)
