"""Summaries of result directories, of every kind that a command writes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sparcom_jax.errors import first_of
from sparcom_jax.results import columns
from sparcom_jax.results.answers import ANSWERS
from sparcom_jax.results.numbers import Digits, interval, mean, number
from sparcom_jax.results.reader import Result, Row, read_result
from sparcom_jax.results.summary import ALIGNED, kind_made_of, made_of
from sparcom_jax.results.tables import (
    AGREEMENT,
    CATEGORY_OVERLAP,
    MATRIX_CORRELATION,
    OVERLAP,
    SWEEP,
    UNIQUENESS,
)
from sparcom_jax.summaries import ablation, steering, tuning
from sparcom_jax.summaries.summary import Cell, Summary, Table, command

Facts = list[tuple[str, str]]


def summary_of(directory: Path) -> Summary:
    """What a result directory shows.

    Args:
      directory: one that a command has just written.

    Raises:
      InputError: it holds no results, or they cannot be read.
    """
    result = read_result(directory, [table for kind in KINDS.values() for table in kind.tables])
    return summarised(result)


def summarised(result: Result) -> Summary:
    """What a result shows, from its summary and the tables that its kind reads here."""
    kind = KINDS[result.kind]
    following = command("report", results=str(result.directory.parent), output="report.html")
    return Summary(f"{result.kind}: {result.directory}", kind.facts(result), kind.shown(result), kind.warnings(result),
                   [following])  # fmt: skip


@dataclass(frozen=True)
class Kind:
    """What is said of results of a kind.

    Attributes:
      tables: that are read.
      facts: what is known of them as a whole.
      shown: what they show.
      warnings: what makes them weak.
    """

    tables: Sequence[columns.Table]
    facts: Callable[[Result], Facts]
    shown: Callable[[Result], list[Table]]
    warnings: Callable[[Result], list[str]]


def _of(result: Result) -> Facts:
    """What the results were made of."""
    made = made_of(result.summary)
    return [("of", f"{kind_made_of(result.summary)} {made['name']} of {result.summary['run']}")]


def _evaluate(result: Result) -> list[Table]:
    of_groups: list[list[Cell]] = []
    sizes = zip(result.summary["categories"], result.summary["instructions"], strict=True)
    by_category: list[list[Cell]] = [[name, size] for name, size in sizes]
    for name, group in result.summary["groups"].items():
        cells = [row for row in result.of_group(OVERLAP, name) if row["measure"] == "jaccard"]
        within = {row["category_a"]: row for row in cells if row["category_a"] == row["category_b"]}
        between = [row for row in cells if row["category_a"] != row["category_b"]]
        unique = {row["category"]: row for row in result.of_group(UNIQUENESS, name)}
        means = [mean(row[key] for row in part) for part in (within.values(), between)
                 for key in ("value", "chance_popularity")]  # fmt: skip
        of_groups.append([name, group["units"], group["mean_set_size"], *means,
                          mean(row["uniqueness"] for row in unique.values()), group["general_units"]])  # fmt: skip
        for cell in by_category:
            category = str(cell[0])
            share = number(unique[category]["uniqueness"])
            cell.append(Digits(f"{number(within[category]['value'])}, {share}"))
    heads = ("units", "of all", "|S(i)|", "within", "chance", "between", "chance", "uniqueness", "general units")
    return [
        Table(heads, of_groups, "overlap (Jaccard) of two S(i), uniqueness of cores", "groups"),
        Table(["category", "instructions", *result.summary["groups"]], by_category, "by category: within, uniqueness"),
    ]


def _compare_facts(result: Result) -> Facts:
    told = [(role, f"set {side['set']['name']} of {side['run']}") for role, side in result.sides.items()]
    if rows := result.tables.get(CATEGORY_OVERLAP):
        groups: dict[str, list[Row]] = {}
        for row in rows:
            groups.setdefault(row["group"], []).append(row)
        by_chance = (f"{name} {number(mean(row['chance_popularity'] for row in of))}" for name, of in groups.items())
        told.append(("by chance", f"Jaccard {', '.join(by_chance)}"))
    return told


def _compare(result: Result) -> list[Table]:
    if CATEGORY_OVERLAP not in result.tables:
        rows: list[list[Cell]] = [
            [f"{row['group_base']}, {row['group_tuned']}", row["cell_count"], row["pearson"], row["null_pearson"],
             row["p_pearson"]]
            for row in result.tables[MATRIX_CORRELATION] if (row["measure"], row["cells"]) == ("jaccard", "between")
        ]  # fmt: skip
        heads: Sequence[str] = ("units", "cells", "correlation", "shuffled", "p")
        return [Table(heads, rows, "correlation of the two tables of overlaps between categories", "pairs of groups")]
    groups = list(result.summary["base"]["groups"])
    units = {(row["group"], row["category"]): row for row in result.summary["core_units"]}
    overlap = {(row["group"], row["category"]): row for row in result.tables[CATEGORY_OVERLAP]}
    rows = []
    for category in result.summary["categories"]:
        row: list[Cell] = [category]
        for group in groups:
            one = units[group, category]
            changes = f"{one['retained']:,} +{one['gained']:,} -{one['lost']:,}"
            row.append(Digits(f"{number(overlap[group, category]['jaccard'])}, {changes}"))
        rows.append(row)
    title = "overlap (Jaccard) of S(i) in both; core units: retained +gained -lost"
    return [Table(["category", *groups], rows, title)]


def _compare_warnings(result: Result) -> list[str]:
    told = []
    if differences := result.summary["capture_differences"]:
        told.append(f"The two runs were captured with different settings: {first_of(differences)}.")
    for reason in dict.fromkeys(result.summary["absent"].values()):
        names = [name for name, why in result.summary["absent"].items() if why == reason]
        told.append(f"Not compared, because {reason}: {first_of(names)}.")
    return told


def _sweep(result: Result) -> list[Table]:
    cuts: dict[tuple[str, float], list[Row]] = {}
    for row in result.tables[SWEEP]:
        cuts.setdefault((row["group"], row["value"]), []).append(row)
    fields = ("mean_set_size", "core_units", "unique_units", "uniqueness", "general_share")
    rows = [[group, value, *(mean(row[field] for row in of) for field in fields)]
            for (group, value), of in cuts.items()]  # fmt: skip
    heads = ("units", result.summary["swept"], "|S(i)|", "core", "unique", "uniqueness", "of the core general")
    return [Table(heads, rows, "means over the categories", "cuts")]


def _agree(result: Result) -> list[Table]:
    pairs: dict[tuple[str, str, str], list[Row]] = {}
    for row in result.tables[AGREEMENT]:
        pairs.setdefault((row["target"], row["selector_a"], row["selector_b"]), []).append(row)
    fields = ("common", "jaccard", "chance", "spearman")
    rows = [[*pair, *(mean(row[field] for row in of) for field in fields)] for pair, of in pairs.items()]
    heads = ("units", "selector", "and", "in common", "Jaccard", "chance", "correlation of scores")
    return [Table(heads, rows, "means over the categories", "pairs")]


def _align(result: Result) -> list[Table]:
    of_groups: list[list[Cell]] = []
    by_category: list[list[Cell]] = [[name] for name in result.summary["categories"]]
    for name, group in result.summary["groups"].items():
        of_groups.append([name, *(mean(group[field]) for field in ALIGNED), group["chance"]])
        for row, correlation, overlap in zip(by_category, group["spearman"], group["overlap"], strict=True):
            row.append(Digits(f"{number(correlation)}, {number(overlap)}"))
    heads = ("units", "correlation", "beyond others", "overlap", "beyond others", "chance")
    title = "frequency with attribution, and overlap at the top; means over layers and categories"
    return [
        Table(heads, of_groups, title, "groups"),
        Table(["category", *result.summary["groups"]], by_category, "by category: correlation, overlap at the top"),
    ]


def _answer(result: Result) -> list[Table]:
    rows = result.tables[ANSWERS]
    before = {row["category_measured"]: row for row in rows if row["kind"] == "none"}
    found = []
    for target in result.summary["targets"]:
        cells: list[list[Cell]] = []
        for category, untouched in before.items():
            own = [row for row in rows if row["target"] == target and row["category_off"] == category
                   and row["category_measured"] == category]  # fmt: skip
            drawn = mean(row["accuracy"] for row in own if row["draw"] is not None)
            for row in own:
                if row["draw"] is None:
                    change = interval(row["ci_low"], row["ci_high"])
                    cells.append([category, untouched["instructions"], untouched["accuracy"], row["accuracy"], drawn,
                                  row["change"], change])  # fmt: skip
        heads = ("category", "asked", "untouched", "own off", "random off", "change", "95% interval")
        found.append(Table(heads, cells, f"{target}: share of answers that are right"))
    return found


def _answer_facts(result: Result) -> Facts:
    settings = result.summary["settings"]
    return [*_of(result), ("answers", f"of at most {settings['new_tokens']} tokens, {settings['draws']} random draws")]


def _answer_warnings(result: Result) -> list[str]:
    told = []
    asked = zip(result.summary["categories"], result.summary["asked"], strict=True)
    if few := [f"{name} {n}" for name, n in asked if n < ablation.FEW_INSTRUCTIONS]:
        told.append(f"Few are asked, because few answers can be settled ({first_of(few)}).")
    if not result.summary["held_out"]:
        told.append("These instructions chose the units, which flatters them.")
    return told


def _none(result: Result) -> list[str]:
    del result
    return []


KINDS = {
    "evaluate": Kind((OVERLAP, UNIQUENESS), _of, _evaluate, lambda result: list(result.summary["cautions"])),
    "compare": Kind((CATEGORY_OVERLAP, MATRIX_CORRELATION), _compare_facts, _compare, _compare_warnings),
    "sweep": Kind((SWEEP,), _of, _sweep, _none),
    "agree": Kind((AGREEMENT,), _of, _agree, _none),
    "align": Kind((), _of, _align, _none),
    "ablate": Kind(ablation.TABLES, ablation.facts, ablation.tables, ablation.warnings),
    "answer": Kind((ANSWERS,), _answer_facts, _answer, _answer_warnings),
    "steer": Kind(steering.TABLES, _of, steering.tables, steering.warnings),
    "finetune": Kind(tuning.TABLES, tuning.facts, tuning.tables, tuning.warnings),
    "tunings": Kind(tuning.COMPARED, tuning.compared_facts, tuning.compared, tuning.compared_warnings),
}
