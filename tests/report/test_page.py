"""The whole page, of results of every kind, and the command that writes it."""

import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import EvaluateSettings
from sparcom_jax.errors import InputError
from sparcom_jax.report.document import script_hash
from sparcom_jax.report.marks import ABOVE, BELOW
from sparcom_jax.report.markup import DIGITS, slug
from sparcom_jax.report.page import report
from sparcom_jax.report.questions import QUESTIONS
from sparcom_jax.results.numbers import interval, number
from tests import synthetic_results
from tests.synthetic import MIXED, make_run, random_masks, write_sets
from tests.synthetic_results import (
    ABLATE,
    CATEGORIES,
    COMPARE,
    EVALUATE,
    EVALUATED,
    EVIL,
    make_results,
    read_table,
    write_trainings,
)

ROOT = Path(__file__).parents[2]
OFF = "matter-ablate-ablate"
TUNED = f"tuning-compare-{slug(COMPARE)}"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_results(tmp_path_factory.mktemp("report"))
    write_trainings(made)
    return made


def launch(*flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "launch/report.py"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def text(results: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page, made by the launcher."""
    output = tmp_path_factory.mktemp("page") / "below" / "report.html"
    done = launch(f"--results={results}", f"--output={output}")
    assert (done.returncode, done.stdout) == (0, f"{output}\n"), done.stderr
    assert [path.name for path in output.parent.iterdir()] == ["report.html"]
    return output.read_text(encoding="utf-8")


def specs(text: str) -> dict[str, dict[str, Any]]:
    """The charts of a page by their place."""
    found = re.findall(r'<script type="application/json" data-chart="([^"]+)">(.*?)</script>', text, re.DOTALL)
    charts = {place: json.loads(content) for place, content in found}
    for spec in charts.values():
        spec["datasets"] = {name: unpacked(rows) for name, rows in spec["datasets"].items()}
    return charts


def unpacked(data: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows as the page's script reads them; fields that a row lacks are left out."""
    return [
        {name: data["words"][value] if coded else value
         for name, coded, value in zip(data["names"], data["coded"], row, strict=True) if value is not None}
        for row in data["rows"]
    ]  # fmt: skip


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def drawn_as(value: str) -> float:
    """A number of a table with the digits that charts get."""
    return float(f"{float(value):.{DIGITS}g}")


def body(text: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_the_page_loads_nothing(text: str) -> None:
    assert not re.findall(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", body(text))
    assert "@import" not in text
    assert all(target.startswith("#") for target in re.findall(r'href="([^"]*)"', body(text)))
    assert text.count("window.vegaEmbed=") == 1
    assert "://" not in body(text) + json.dumps(specs(text))


def test_the_policy_names_the_scripts_that_run(text: str) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'; script-src 'sha256-")
    assert [script_hash(script) in policy[1] for script in scripts] == [True, True, True]
    assert "unsafe-eval" not in policy[1]
    assert not set("\r\0") & set(text)


def test_all_text_is_escaped(text: str) -> None:
    assert "<b>x" not in text
    assert "<i>more" not in text
    assert html.escape(EVIL) in body(text)
    assert html.escape(COMPARE) in body(text)
    charts = specs(text)
    assert len(charts) == text.count("data-chart=")
    for place, content in re.findall(r'data-chart="([^"]+)">(.*?)</script>', text, re.DOTALL):
        assert not set("<>&\u2028\u2029") & set(content), place
    assert {row["category"] for row in rows_of(charts["where-evaluate-evaluate-mlp-depth"])} == set(CATEGORIES)


def test_every_question_has_its_section(text: str) -> None:
    titles = re.findall(r"<h2>(.*?)</h2>", body(text))
    assert titles == [*(question.title for question in QUESTIONS), "How it was made"]
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    links = re.findall(r'<a (?:class="skip" )?href="#([^"]+)">', text)
    assert {"main", "findings", "matter", "method", "matter-ablate-ablate", "explore-L0.N2"} <= set(links)
    assert set(links) <= set(ids)
    charts = specs(text)
    for group in ("mlp", "shared", "routed", "expert"):
        for place in ("own-{}-jaccard", "own-{}-overlap-coefficient", "where-{}-depth", "own-{}-combinations"):
            question, rest = place.format(group).split("-", 1)
            assert f"{question}-evaluate-evaluate-{rest}" in charts
        assert f"{TUNED}-{group}-units-by-layer" in charts
        assert f"attribution-align-align-{group}-alignment" in charts
    for name in ("overlap", "units", "frequency-drift", "routing-drift"):
        assert f"{TUNED}-{name}" in charts
    for name in ("neurons-change", "neurons-effects", "experts-against-random", "neurons-doses"):
        assert f"matter-ablate-ablate-{name}" in charts
    across = {place.removeprefix("across-compare-compare-across-b3a5e5a1-") for place in charts if "across" in place}
    assert len(across) == 4
    assert all("share" in name for name in across)
    assert "experts-evaluate-evaluate-routing-distance" in charts
    for name in ("tunings-tunings-tunings", "tunings-tunings-tuning-changes", "finetune-tuned-training"):
        assert f"trained-{name}" in charts
    assert "matter-steer-steer-SUM-steering" in charts
    assert "of different families (llama and mistral)" in text
    assert f"draws 5, separator {html.escape(json.dumps(chr(10)))})" in text
    for name in ("overlap.csv", "contrasts.csv", "uniqueness.csv", "combinations.csv", "depth.csv", "routing.csv"):
        assert f"<code>evaluate/{name}</code>" in text


def test_numbers_are_those_of_the_tables(results: Path, text: str) -> None:
    charts = specs(text)
    overlap = [row for row in read_table(results / EVALUATE / "overlap.csv")
               if (row["group"], row["measure"]) == ("routed", "jaccard")]  # fmt: skip
    cells = rows_of(charts["own-evaluate-evaluate-routed-jaccard"])
    for row in overlap:
        for a, b in ((row["category_a"], row["category_b"]), (row["category_b"], row["category_a"])):
            values = {cell["value"] for cell in cells if (cell["row"], cell["column"]) == (a, b)}
            (beyond,) = values
            assert beyond == pytest.approx(float(row["value"]) - float(row["chance_popularity"]), rel=5 * 10**-DIGITS)
        assert f"<td class=n>{number(float(row['chance']))}</td>" in text
        assert f"<td class=n>{interval(float(row['ci_low']), float(row['ci_high']))}</td>" in text
    for row in read_table(results / COMPARE / "units.csv"):
        shown = {cell["change"]: cell["units"] for cell in rows_of(charts[f"{TUNED}-{row['group']}-units-by-layer"])
                 if (cell["category"], cell["layer"]) == (row["category"], int(row["layer"]))}  # fmt: skip
        assert shown == {change: int(row[change]) for change in ("retained", "gained", "lost")}
    shifts = [row["wasserstein"] for row in read_table(results / COMPARE / "depth_shift.csv") if row["wasserstein"]]
    assert shifts
    for shift in shifts:
        assert f"<td class=n>{number(float(shift))}</td>" in text
    ablation = [row for row in read_table(results / ABLATE / "ablation.csv") if row["target"] == "neurons"]
    for row in ablation:
        if row["kind"] == "core":
            labels = [cell["label"].strip(ABOVE + BELOW) for cell in rows_of(charts[f"{OFF}-neurons-change"])
                      if (cell["row"], cell["column"]) == (row["category_off"], row["category_measured"])]  # fmt: skip
            assert number(float(row["delta"])) in labels
    diagonal = [drawn_as(row["delta"]) for row in ablation if row["category_off"] == row["category_measured"]]
    for row in read_table(results / ABLATE / "selectivity.csv"):
        assert f"<td class=n>{number(float(row['selectivity']))}</td>" in text
        assert f"<td class=n>{number(float(row['selectivity_matched']))}</td>" in text
    drawn = [row["value"] for row in rows_of(charts[f"{OFF}-neurons-against-random"]) if "what" in row]
    assert sorted(drawn) == sorted(diagonal)
    curve = {(row["category"], row["units"], row["value"]) for row in rows_of(charts[f"{OFF}-neurons-doses"])}
    whole = [row for row in read_table(results / ABLATE / "selectivity.csv") if row["target"] == "neurons"]
    for row in (*read_table(results / ABLATE / "doses.csv"), *whole):
        assert {
            (row["category"], int(row["units_off"]), drawn_as(row[name])) for name in ("own", "selectivity")
        } <= curve
    assert "matter-ablate-ablate-experts-doses" not in charts


def test_headlines_are_means_of_the_table(results: Path, text: str) -> None:
    jaccard = [row for row in read_table(results / EVALUATE / "overlap.csv") if row["measure"] == "jaccard"]
    part = text[text.index('id="own"') : text.index('id="where"')]
    for group in ("mlp", "shared", "routed", "expert"):
        within, between = (
            np.mean([float(row["value"]) for row in jaccard
                     if row["group"] == group and (row["category_a"] == row["category_b"]) == same])
            for same in (True, False)
        )  # fmt: skip
        line = next(row for row in re.findall(r"<tr>.*?</tr>", part) if f"<td><bdi>{group}</bdi></td>" in row)
        assert f"<td class=n>{number(float(within))}</td>" in line
        assert f"<td class=n>{number(float(between))}</td>" in line


def test_significance_is_marked(results: Path, text: str) -> None:
    cells = rows_of(specs(text)["own-evaluate-evaluate-shared-jaccard-contrast"])
    for row in read_table(results / EVALUATE / "contrasts.csv"):
        if (row["group"], row["measure"]) != ("shared", "jaccard"):
            continue
        mark = ABOVE if float(row["q_value"]) < 0.05 else ""
        labels = [c["label"] for c in cells if (c["row"], c["column"]) == (row["category_a"], row["category_b"])]
        assert number(float(row["contrast"])) + mark in labels


def test_the_same_results_give_the_same_bytes(results: Path, text: str, tmp_path: Path) -> None:
    shutil.copytree(results, tmp_path / "copy")
    output = tmp_path / "again.html"
    assert report(tmp_path / "copy", output) == output
    assert output.read_text(encoding="utf-8") == text


def test_a_result_may_be_the_directory_itself_without_core_units(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", [0, 0], groups={"mlp": {"layers": [0], "neuron": 9}}, categories=("only",),
                   num_layers=1)  # fmt: skip
    write_sets(run, {"mlp": np.eye(2, 9, dtype=bool)[:, None]})
    evaluate(run, tmp_path / "results", dataclasses.replace(EVALUATED, rho=1.0))
    page_text = report(tmp_path / "results", tmp_path / "report.html").read_text()
    assert "<h2>Where are they?</h2>" in page_text
    assert "<code>overlap.csv</code>" in page_text
    assert "No category has core units" in page_text
    assert json.loads((tmp_path / "results/summary.json").read_text())["set"]["digest"] not in page_text


def test_the_page_is_written_whole_or_not_at_all(results: Path, tmp_path: Path) -> None:
    broken = tmp_path / "results"
    shutil.copytree(results, broken)
    (broken / ABLATE / "baseline.csv").unlink()
    with pytest.raises(InputError, match=r"baseline\.csv: cannot be read"):
        report(broken, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_the_launcher_refuses_in_one_line(tmp_path: Path) -> None:
    refused = launch(f"--results={tmp_path / 'none'}", f"--output={tmp_path / 'other.html'}")
    assert (refused.returncode, refused.stderr) == (2, f"error: {tmp_path / 'none'}: no such directory\n")


def test_sixty_categories_are_at_most_five_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = tuple(f"kind {number}" for number in range(60))
    monkeypatch.setattr(synthetic_results, "CATEGORIES", names)
    run = make_run(tmp_path / "run", [*range(60)] * 2, groups=MIXED, categories=names)
    write_sets(run, random_masks(run))
    evaluate(run, tmp_path / "results/evaluate", EvaluateSettings(permutations=9, bootstraps=9))
    synthetic_results.write_ablation(tmp_path / "results/ablate")
    page = report(tmp_path / "results", tmp_path / "report.html").read_text(encoding="utf-8")
    assert len(page.encode()) <= 5e6
    cells = re.search(r'data-chart="own-evaluate-evaluate-mlp-jaccard">(.*?)</script>', page, re.DOTALL)
    assert cells is not None
    assert len(json.loads(cells[1])["datasets"]["rows0"]["rows"]) == 60 * 60
