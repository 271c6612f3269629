"""What the first screen says: findings where the statistics carry them, and where results are weak."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparcom_jax.report.findings import findings
from sparcom_jax.report.first import deviations, warnings
from sparcom_jax.report.page import report
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Result, find_results
from tests.synthetic_results import ABLATE, CATEGORIES, EVALUATE, edit, make_results, read_table


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_results(tmp_path)


def of_kind(results: Path, kind: str) -> Result:
    return next(result for result in find_results(results) if result.kind == kind)


def rewritten(path: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Changes every row of a table."""
    rows = read_table(path)
    for row in rows:
        change(row)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def make_specific(results: Path, category: str) -> None:
    """An ablation in which the neurons of one category, and of no other, are its own."""

    def effect(row: dict[str, str]) -> None:
        own = row["target"] == "neurons" and row["category"] == category
        row.update(own="0.5" if own else "0.01", others="0.02", selectivity="0.48" if own else "-0.01",
                   ci_low="0.3" if own else "-0.2", ci_high="0.7" if own else "0.2", own_matched="0.03")  # fmt: skip

    rewritten(results / ABLATE / "selectivity.csv", effect)


def test_units_of_a_category_are_named_where_they_are_its_own(results: Path) -> None:
    make_specific(results, "SUM")
    neurons, experts = findings(of_kind(results, "ablate"))
    assert neurons.carried
    own = ("neurons", "SUM", "SUM")
    ends = next(row for row in read_table(results / ABLATE / "effects.csv")
                if (row["target"], row["category_off"], row["category_measured"]) == own)  # fmt: skip
    interval = f"[{number(float(ends['ci_low']))}, {number(float(ends['ci_high']))}]"
    assert "neurons of SUM (by their cores) costs SUM 0.500 nats a token" in neurons.sentences
    assert f"(95% interval {interval})" in neurons.sentences
    assert "the other categories 0.0200; as many random ones of equal layer and frequency 0.0300" in neurons.sentences
    assert "Of 3 categories, the units of SUM cost their own category more" in neurons.sentences
    assert not experts.carried
    assert "experts of a category by their cores costs no category" in experts.sentences


@pytest.mark.parametrize("draw", [0.5, 0.6])
def test_units_are_not_named_where_a_random_draw_does_as_much(results: Path, draw: float) -> None:
    make_specific(results, "SUM")

    def as_high(summary: dict[str, Any]) -> None:
        summary["targets"]["neurons"]["controls"]["random_matched"]["high"][2][2] = draw

    edit(results / ABLATE, as_high)
    assert not findings(of_kind(results, "ablate"))[0].carried


def test_units_are_not_named_where_their_interval_holds_none(results: Path) -> None:
    make_specific(results, "SUM")
    rewritten(results / ABLATE / "selectivity.csv", lambda row: row.update(ci_low="-0.001"))
    assert not findings(of_kind(results, "ablate"))[0].carried


def test_contrasts_are_claimed_where_they_are_significant_only(results: Path) -> None:
    table = results / EVALUATE / "contrasts.csv"
    rewritten(table, lambda row: row.update(q_value="0.2", p_value="0.1"))
    first = findings(of_kind(results, "evaluate"))[0]
    assert not first.carried
    assert "no pair of categories is shown" in first.sentences
    assert "the least q of 3 pairs is 0.200" in first.sentences
    rewritten(table, lambda row: row.update(q_value="0.01" if row["category_b"] == "SUM" else "0.2"))
    first = findings(of_kind(results, "evaluate"))[0]
    assert first.carried
    assert "2 of 3 pairs of categories overlap more within than between" in first.sentences


def test_routing_is_claimed_where_it_is_further_apart_than_shuffled_labels(results: Path) -> None:
    table = results / EVALUATE / "routing_distance.csv"
    rows = read_table(table)
    means = [number(float(np.mean([float(row[field]) for row in rows]))) for field in ("distance", "null_mean")]
    rewritten(table, lambda row: row.update(q_value="0.2"))
    said = findings(of_kind(results, "evaluate"))[1]
    assert not said.carried
    assert f"0 of {len(rows)} categories and layers" in said.sentences
    assert said.sentences.endswith(f"total variation of {means[0]} on average, shuffled {means[1]}.")
    rewritten(table, lambda row: row.update(q_value="0.01" if row["category"] == "SUM" else "0.2"))
    said = findings(of_kind(results, "evaluate"))[1]
    assert said.carried
    assert f"{len(rows) // 3} of {len(rows)} categories and layers" in said.sentences
    assert "Furthest from the others: expert " in said.sentences


def test_weak_results_have_chips(results: Path) -> None:
    chips = [chip for chip, _ in warnings(find_results(results))]
    assert "few random draws: no p below 0.33" in chips
    assert "effects rest on 6 instructions a category" in chips
    assert not [chip for chip in chips if "hardly trained" in chip]
    rewritten(results / ABLATE / "baseline.csv", lambda row: row.update(nll="5.5", held_out="0", instructions="99"))
    chips = [chip for chip, _ in warnings(find_results(results))]
    assert "measured on instructions that chose the units" in chips
    assert [chip for chip in chips if chip.endswith("hardly trained: 5.50 nats a token untouched")]
    assert not [chip for chip in chips if "rest on" in chip]


def test_deviations_are_those_from_the_defaults(results: Path) -> None:
    found = deviations(find_results(results))
    assert "ablate.draws 5" in found
    assert "evaluate.permutations 9" in found
    assert not [one for one in found if one.startswith(("evaluate.rho", "evaluate.seed"))]


def test_the_page_begins_with_them(results: Path, tmp_path: Path) -> None:
    make_specific(results, "SUM")
    page = report(results, tmp_path / "report.html", note="Said & done.").read_text()
    head = page[page.index("<header") : page.index("</header>")]
    assert "neurons of SUM (by their cores) costs SUM 0.500 nats a token" in head
    assert "Said &amp; done." in head
    assert 'href="#matter-ablate-ablate"' in head
    assert 'data-chart="key-neurons-effects"' in head
    assert len(CATEGORIES) == 3
