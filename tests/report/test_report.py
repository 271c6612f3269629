import csv
import dataclasses
import html
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import CompareSettings, EvaluateSettings
from sparcom_jax.errors import InputError
from sparcom_jax.report import page
from sparcom_jax.report.evaluate import _members
from sparcom_jax.report.files import write_whole
from sparcom_jax.report.manifest import manifest
from sparcom_jax.report.markup import UNDEFINED, interval, number
from sparcom_jax.report.page import report
from sparcom_jax.report.results import COLUMNS, find_results
from sparcom_jax.results.files import write_table
from sparcom_jax.store.run import open_run
from tests.synthetic import MIXED, make_pair, make_run, random_masks, write_sets

ROOT = Path(__file__).parents[2]
EVIL = "</script><b>x&"
CATEGORIES = (EVIL, "\"q\" 'r' \u2028", "SUM")
LABELS = [i % 3 for i in range(18)]
EVALUATED = EvaluateSettings(permutations=9, bootstraps=9)
COMPARED = CompareSettings(permutations=9, bootstraps=9)
EVALUATE, COMPARE, ACROSS, ABLATE = "evaluate", "compare/tuned & <i>more</i>", "compare/across", "ablate"


def write_ablation(output: Path) -> None:
    """A result of kind `ablate`, as its tables and its summary are agreed."""
    rng = np.random.default_rng(0)
    size, draws, rows, targets = len(CATEGORIES), 5, [], {}
    baseline = rng.uniform(1, 3, size)
    for target in ("neurons", "experts"):
        core, random = rng.normal(0, 0.1, (size, size)), rng.normal(0, 0.1, (draws, size, size))
        for draw, change in (("", core), *enumerate(random)):
            for a, b in np.ndindex(size, size):
                rows.append((target, "core" if draw == "" else "random", draw, CATEGORIES[a], CATEGORIES[b], 7 + a, 6,
                             baseline[b] + change[a, b], change[a, b]))  # fmt: skip
        targets[target] = {
            "units_off": [7 + a for a in range(size)], "delta": core.tolist(),
            "random_mean": random.mean(axis=0).tolist(), "random_low": random.min(axis=0).tolist(),
            "random_high": random.max(axis=0).tolist(), "p_value": rng.random((size, size)).tolist(),
        }  # fmt: skip
    losses = [(category, 6, 100, nll) for category, nll in zip(CATEGORIES, baseline, strict=True)]
    tables = {"ablation.csv": rows, "baseline.csv": losses}
    output.mkdir(parents=True)
    for name, lines in tables.items():
        write_table(output / name, COLUMNS["ablate"][name], lines)
    made = {"name": "frequency", "run": "/runs/other", "digest": "0"}
    summary = {"schema_version": 1, "kind": "ablate", "run": "runs/base", "model": {"family": "llama"}, "set": made,
               "settings": {"draws": draws, "separator": "\n"}, "categories": CATEGORIES, "baseline": baseline.tolist(),
               "targets": targets}  # fmt: skip
    (output / "summary.json").write_text(json.dumps(summary))


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    base, tuned, _, _ = make_pair(root / "runs", LABELS, groups=MIXED, categories=CATEGORIES)
    other = make_run(root / "other", LABELS, family="mistral", categories=CATEGORIES)
    write_sets(other, random_masks(other))
    evaluate(base, root / "results" / EVALUATE, EVALUATED)
    compare(base, tuned, root / "results" / COMPARE, COMPARED)
    compare(base, other, root / "results" / ACROSS, COMPARED)
    write_ablation(root / "results" / ABLATE)
    return root / "results"


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
    return {place: json.loads(content) for place, content in found}


def rows_of(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for rows in spec["datasets"].values() for row in rows]


def body(text: str) -> str:
    """The page without its scripts."""
    return re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# The page


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
    assert [page._digest(script) in policy[1] for script in scripts] == [True, True]
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
    assert {row["category"] for row in rows_of(charts["s1-mlp-depth"])} == set(CATEGORIES)


def test_every_result_has_its_section(text: str) -> None:
    titles = [html.unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", body(text))]
    assert titles == ["What you see", "evaluate: evaluate", f"compare: {ACROSS}", f"compare: {COMPARE}",
                      "ablate: ablate", "Manifest"]  # fmt: skip
    links = re.findall(r'<a href="#([^"]+)">', text)
    assert links == ["headlines", "s1", "s2", "s3", "s4", "manifest"]
    assert all(f'id="{link}"' in text for link in links)
    charts = specs(text)
    for group in ("mlp", "shared", "routed", "expert"):
        for name in ("jaccard", "overlap-coefficient", "depth", "combinations"):
            assert f"s1-{group}-{name}" in charts
        assert f"s3-{group}-units-by-layer" in charts
    for place in ("s2-neurons-set-share", "s2-experts-core-share", "s3-overlap", "s3-units", "s3-frequency-drift",
                  "s3-routing-drift", "s4-neurons-change", "s4-experts-against-random"):  # fmt: skip
        assert place in charts
    assert not [place for place in charts if place.startswith("s2-") and "share" not in place]
    assert "of different families (llama and mistral)" in text
    assert f"draws 5, separator {html.escape(json.dumps(chr(10)))})" in text
    for name in ("overlap.csv", "uniqueness.csv", "combinations.csv", "depth.csv"):
        assert f"<code>evaluate/{name}</code>" in text


def test_numbers_are_those_of_the_tables(results: Path, text: str) -> None:
    charts = specs(text)
    overlap = [row for row in read_table(results / EVALUATE / "overlap.csv")
               if (row["group"], row["measure"]) == ("routed", "jaccard")]  # fmt: skip
    cells = rows_of(charts["s1-routed-jaccard"])
    for row in overlap:
        for a, b in ((row["category_a"], row["category_b"]), (row["category_b"], row["category_a"])):
            values = {cell["value"] for cell in cells if (cell["row"], cell["column"]) == (a, b)}
            assert values == {float(row["value"]), float(row["chance"])}
        assert f"<td class=n>{number(float(row['null_mean_length']))}</td>" in text
        assert f"<td class=n>{interval(float(row['ci_low']), float(row['ci_high']))}</td>" in text
    for row in read_table(results / COMPARE / "units.csv"):
        shown = {cell["change"]: cell["units"] for cell in rows_of(charts[f"s3-{row['group']}-units-by-layer"])
                 if (cell["category"], cell["layer"]) == (row["category"], int(row["layer"]))}  # fmt: skip
        assert shown == {change: int(row[change]) for change in ("retained", "gained", "lost")}
    for row in read_table(results / COMPARE / "depth_shift.csv"):
        assert not row["wasserstein"] or f"<td class=n>{number(float(row['wasserstein']))}</td>" in text
    ablation = [row for row in read_table(results / ABLATE / "ablation.csv") if row["target"] == "neurons"]
    for row in ablation:
        if row["kind"] == "core":
            labels = [cell["label"].strip("*") for cell in rows_of(charts["s4-neurons-change"])
                      if (cell["row"], cell["column"]) == (row["category_off"], row["category_measured"])]  # fmt: skip
            assert number(float(row["delta"])) in labels
    diagonal = [float(row["delta"]) for row in ablation if row["category_off"] == row["category_measured"]]
    drawn = [row["value"] for row in rows_of(charts["s4-neurons-against-random"]) if "what" in row]
    assert sorted(drawn) == sorted(diagonal)


def test_headlines_are_means_of_the_table(results: Path, text: str) -> None:
    jaccard = [row for row in read_table(results / EVALUATE / "overlap.csv") if row["measure"] == "jaccard"]
    part = text[text.index('id="headlines"') : text.index('id="s1"')]
    for group in ("mlp", "shared", "routed", "expert"):
        within, between = (
            np.mean([float(row["value"]) for row in jaccard
                     if row["group"] == group and (row["category_a"] == row["category_b"]) == same])
            for same in (True, False)
        )  # fmt: skip
        line = next(row for row in re.findall(r"<tr>.*?</tr>", part) if f"<td>{group}</td>" in row)
        assert f"<td class=n>{number(float(within))}</td>" in line
        assert f"<td class=n>{number(float(between))}</td>" in line


def test_significance_is_marked(results: Path, text: str) -> None:
    cells = rows_of(specs(text)["s1-shared-jaccard"])
    for row in read_table(results / EVALUATE / "overlap.csv"):
        if (row["group"], row["measure"]) != ("shared", "jaccard"):
            continue
        free, by_length = (float(row[key]) < 0.05 for key in ("q_value", "q_value_length"))
        mark = "*" if by_length else "°" if free else ""
        labels = [c["label"] for c in cells if (c["row"], c["column"]) == (row["category_a"], row["category_b"])]
        assert number(float(row["value"])) + mark in labels


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
    assert "<h2>evaluate</h2>" in page_text
    assert "<code>overlap.csv</code>" in page_text
    assert "No category has core units" in page_text


def test_the_manifest_shows_what_is_recorded_and_names_what_is_not(results: Path, tmp_path: Path) -> None:
    def described() -> list[str]:
        return manifest(find_results(tmp_path / "copy")).split("<details>")[1:]

    def forget(summary: dict[str, Any]) -> None:
        for side in (summary, summary.get("base", {}), summary.get("tuned", {})):
            side.pop("manifest", None)

    shutil.copytree(results, tmp_path / "copy")
    for path in (tmp_path / "copy").rglob("summary.json"):
        edit(path.parent, forget)
    tables = described()
    assert len(tables) == 4
    assert all("Not recorded in the results: " in table and "tokenizer digest" in table for table in tables)
    edit(tmp_path / "copy" / EVALUATE, lambda s: s.update(manifest={
        "tokenizer": {"digest": "d1g35t"}, "tokens": {"counted": 12345},
        "instructions": {"truncated": {"<i9>": 7}},
        "capture": {"convention": "gate", "truncate": True},
    }))  # fmt: skip
    recorded = next(table for table in described() if "d1g35t" in table)
    assert len(described()) == 4
    for cell in ("12,345", "convention gate, truncate yes", "1", "llama"):
        assert f"<td>{cell}</td>" in recorded
    assert "tokenizer digest" not in recorded.split("Not recorded")[1]


def test_figures(results: Path, tmp_path: Path) -> None:
    report(results / ABLATE, tmp_path / "report.html", tmp_path / "figures")
    charts = specs((tmp_path / "report.html").read_text())
    files = sorted(path.name for path in (tmp_path / "figures").iterdir())
    stems = {place.replace("s1-", "ablate-") for place in charts}
    assert files == sorted(f"{stem}.{suffix}" for stem in stems for suffix in ("svg", "pdf"))
    assert "ablate-neurons-change.svg" in files
    for name in files:
        content = (tmp_path / "figures" / name).read_bytes()
        assert content.startswith(b"<svg" if name.endswith("svg") else b"%PDF")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12, "0.120"), (0.0123456, "0.0123"), (12.0, "12.0"), (999.4, "999"), (999.6, "1,000"), (12345, "12,345"),
     (0.0, "0"), (3, "3"), (-0.5, "-0.500"), (0.00001234, "1.23e-05"), (None, UNDEFINED), (123.4, "123")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown


def test_combinations_are_told_apart_even_if_a_name_holds_a_plus() -> None:
    categories = ["A+B", "A", "B", "C"]
    for members in (["A+B"], ["A", "B"], ["A+B", "C"], ["A", "B", "C"], ["A+B", "A", "B", "C"]):
        assert _members({"categories": "+".join(members), "category_count": len(members)}, categories) == members
    assert _members({"categories": "A+D", "category_count": 2}, categories) == []


# Bad input


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: edit(d / EVALUATE, lambda s: s.pop("schema_version")),
         r"evaluate/summary\.json: schema_version is None, this version reads 1; make these results again"),
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
        report(tmp_path / "copy", tmp_path / "report.html")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_results_of_two_versions_of_a_set_are_not_mixed(tmp_path: Path) -> None:
    base, tuned, before, _ = make_pair(tmp_path / "runs", LABELS, categories=CATEGORIES)
    results = tmp_path / "results"
    evaluate(base, results / "evaluate", EVALUATED)
    again = before["mlp"].copy()
    again[0, 0, 0] ^= True
    write_sets(base, {"mlp": again})
    compare(open_run(f"{base.location}/"), tuned, results / "pair", COMPARED)
    with pytest.raises(InputError) as error:
        report(results, tmp_path / "report.html")
    assert str(error.value) == (
        f"{results / 'evaluate'} and {results / 'pair'}: made of two versions of set 'frequency' of {base.location}; "
        f"make the results of the earlier one again"
    )
    assert not (tmp_path / "report.html").exists()
    evaluate(base, results / "evaluate", EVALUATED)
    report(results, tmp_path / "report.html")
    page_text = (tmp_path / "report.html").read_text()
    digest = json.loads((results / "evaluate/summary.json").read_text())["set"]["digest"]
    assert digest not in page_text


def test_nothing_to_report_and_nowhere_to_write(results: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nowhere: no such directory"):
        report(tmp_path / "nowhere", tmp_path / "report.html")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/summary.json").write_text('{"kind": "benchmark"}')
    with pytest.raises(InputError, match=r"other: no results \(no summary\.json"):
        report(tmp_path / "other", tmp_path / "report.html")
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="taken: cannot be written"):
        write_whole(tmp_path / "taken", b"")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_the_launcher_refuses_in_one_line(tmp_path: Path) -> None:
    refused = launch(f"--results={tmp_path / 'none'}", f"--output={tmp_path / 'other.html'}")
    assert (refused.returncode, refused.stderr) == (2, f"error: {tmp_path / 'none'}: no such directory\n")
