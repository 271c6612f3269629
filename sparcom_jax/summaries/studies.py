"""Summaries of many results together: of a report, and of a whole study."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sparcom_jax.results.ablation import SELECTIVITY
from sparcom_jax.results.answers import ANSWERS
from sparcom_jax.results.columns import Table as ResultTable
from sparcom_jax.results.numbers import Number, mean, number
from sparcom_jax.results.reader import Result, Row, find_summaries, read_result
from sparcom_jax.results.steering import STEERING
from sparcom_jax.results.tables import AGREEMENT, CATEGORY_OVERLAP, OVERLAP, UNIQUENESS
from sparcom_jax.results.tuning import EVALUATION
from sparcom_jax.results.tunings import TUNINGS
from sparcom_jax.summaries.ablation import fixed
from sparcom_jax.summaries.summary import Cell, Summary, Table

READ: tuple[ResultTable, ...] = (SELECTIVITY, ANSWERS, AGREEMENT, CATEGORY_OVERLAP, OVERLAP, UNIQUENESS, STEERING,
                                 EVALUATION, TUNINGS)  # fmt: skip


def summary_of_all(title: str, results: Path, page: Path) -> Summary:
    """What all results below a directory show, a line each.

    Args:
      title: the command, and what it made.
      results: the directory.
      page: the report.

    Raises:
      InputError: a result cannot be read.
    """
    read = [read_result(results / place, READ) for place, _ in find_summaries(results)]
    names = [place.as_posix() for place, _ in find_summaries(results)]
    return summarised_all(title, dict(zip(names, read, strict=True)), page.stat().st_size)


def summarised_all(title: str, results: dict[str, Result], size: int) -> Summary:
    """The same of results that were read, by name; `size` is that of the page, in bytes."""
    kinds: dict[str, int] = {}
    for result in results.values():
        kinds[result.kind] = kinds.get(result.kind, 0) + 1
    ordered = sorted(results, key=lambda name: list(HEADLINES).index(results[name].kind))
    rows: list[list[Cell]] = [[name, "; ".join(HEADLINES[results[name].kind](results[name]))] for name in ordered]
    facts = [
        ("results", ", ".join(f"{count} {kind}" for kind, count in kinds.items())),
        ("page", f"{size / 1e6:.1f} MB, readable offline"),
    ]
    return Summary(title, facts, [Table(("result", "means over the categories"), rows, what="results")])


def _ablate(result: Result) -> Iterator[str]:
    for target in result.summary["targets"]:
        rows = [row for row in result.tables[SELECTIVITY] if row["target"] == target]
        own, others, drawn = (_signed(mean(row[field] for row in rows)) for field in
                              ("own", "others", _control(rows)))  # fmt: skip
        yield f"{target}: loss {own}, of others {others}, random {drawn}"


def _control(rows: list[Row]) -> str:
    """The stricter control that there is."""
    return "own_matched" if any(row["own_matched"] is not None for row in rows) else "own_random"


def _signed(value: Number | None) -> str:
    return f"{'+' if value is not None and value >= 0 else ''}{fixed(value)}"


def _evaluate(result: Result) -> Iterator[str]:
    for name in result.summary["groups"]:
        cells = [row for row in result.of_group(OVERLAP, name) if row["measure"] == "jaccard"]
        within = mean(row["value"] for row in cells if row["category_a"] == row["category_b"])
        between = mean(row["value"] for row in cells if row["category_a"] != row["category_b"])
        unique = mean(row["uniqueness"] for row in result.of_group(UNIQUENESS, name))
        yield f"{name} within {number(within)}, between {number(between)}, unique {number(unique)}"


def _compare(result: Result) -> Iterator[str]:
    if CATEGORY_OVERLAP not in result.tables:
        yield "models of two architectures, not unit by unit"
        return
    for name in result.summary["base"]["groups"]:
        rows = result.of_group(CATEGORY_OVERLAP, name)
        overlap, chance = (number(mean(row[field] for row in rows)) for field in ("jaccard", "chance_popularity"))
        units = [row for row in result.summary["core_units"] if row["group"] == name]
        kept, gained, lost = (sum(row[field] for row in units) for field in ("retained", "gained", "lost"))
        yield f"{name} Jaccard {overlap} (chance {chance}), core {kept} +{gained} -{lost}"


def _align(result: Result) -> Iterator[str]:
    for name, group in result.summary["groups"].items():
        correlation, overlap = (number(mean(group[field])) for field in ("spearman", "overlap"))
        yield f"{name} correlation {correlation}, top {overlap} (chance {number(group['chance'])})"


def _agree(result: Result) -> Iterator[str]:
    for target in dict.fromkeys(row["target"] for row in result.tables[AGREEMENT]):
        rows = [row for row in result.tables[AGREEMENT] if row["target"] == target]
        overlap, chance = (number(mean(row[field] for row in rows)) for field in ("jaccard", "chance"))
        yield f"{target} Jaccard {overlap} (chance {chance})"


def _answer(result: Result) -> Iterator[str]:
    rows = result.tables[ANSWERS]
    before = number(mean(row["accuracy"] for row in rows if row["kind"] == "none"))
    for target in result.summary["targets"]:
        own = [row for row in rows if row["target"] == target and row["category_off"] == row["category_measured"]]
        off, drawn = (number(mean(row["accuracy"] for row in own if (row["draw"] is None) == chosen))
                      for chosen in (True, False))  # fmt: skip
        yield f"{target} right {before}, own off {off}, random off {drawn}"


def _explore(result: Result) -> Iterator[str]:
    summary: dict[str, Any] = result.summary
    yield f"cards of {len(summary['cards']):,} units, from {summary['read']:,} texts"


def _sweep(result: Result) -> Iterator[str]:
    yield f"cores over {result.summary['swept']}"


def _steer(result: Result) -> Iterator[str]:
    highest = max(row["alpha"] for row in result.tables[STEERING])
    for name in result.summary["steered"]:
        rows = [row for row in result.tables[STEERING]
                if not row["draw"] and row["category_steered"] == name and row["alpha"] == highest]  # fmt: skip
        own = mean(row["change"] for row in rows if row["category_measured"] == name)
        others = mean(row["change"] for row in rows if row["category_measured"] != name)
        yield f"{name} times {highest:g}: loss {_signed(own)}, of others {_signed(others)}"


def _finetune(result: Result) -> Iterator[str]:
    kept = [row for row in result.tables[EVALUATION]
            if row["part"] == "held_out" and row["step"] == result.summary["kept"]]  # fmt: skip
    learnt = {name for name, n in zip(result.summary["categories"], result.summary["learnt"], strict=True) if n}
    own = mean(row["change"] for row in kept if row["category"] in learnt)
    others = mean(row["change"] for row in kept if row["category"] not in learnt)
    yield f"{result.summary['train']['name']}: loss {_signed(own)}, of others {_signed(others)}"


def _tunings(result: Result) -> Iterator[str]:
    for row in result.tables[TUNINGS]:
        yield f"{row['training']}: gain {_signed(row['gain'])}, forgetting {_signed(row['forgetting'])}"


HEADLINES: dict[str, Callable[[Result], Iterator[str]]] = {
    "ablate": _ablate,
    "answer": _answer,
    "steer": _steer,
    "compare": _compare,
    "tunings": _tunings,
    "finetune": _finetune,
    "evaluate": _evaluate,
    "explore": _explore,
    "align": _align,
    "agree": _agree,
    "sweep": _sweep,
}
"""By kind of results, in the order in which they are shown."""
