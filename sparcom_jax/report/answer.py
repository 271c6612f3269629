"""Answers: how many are right with the units of a category off."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import how_made, paragraph, settings, table
from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.answers import ANSWERS
from sparcom_jax.results.numbers import interval, mean, number
from sparcom_jax.results.reader import Result, Row


def answers(result: Result) -> list[Part]:
    """What a model answers, by target."""
    summary, rows = result.summary, result.tables[ANSWERS]
    counts = zip(summary["categories"], summary["asked"], strict=True)
    asked = ", ".join(f"{name} {number(count)}" for name, count in counts)
    parts: list[Part] = [
        paragraph(
            f"Greedy answers with units off ({how_made(summary)}; {settings(summary['settings'])}).",
            f"Asked are instructions whose answers a machine can settle: {asked}.",
            "" if summary["held_out"] else "These instructions chose the units, which flatters them.",
        )
    ]
    before = [(row["category_measured"], row["instructions"], row["right"], row["accuracy"])
              for row in rows if row["kind"] == "none"]  # fmt: skip
    parts.append(table(("category", "asked", "right", "accuracy"), before, [result.path(ANSWERS)],
                       title="The untouched model"))  # fmt: skip
    of = {target: [row for row in rows if row["target"] == target] for target in summary["targets"]}
    return [*parts, Choice("switched off", {target: [*_target(result, of[target], target)] for target in of})]


def _target(result: Result, rows: Sequence[Row], target: str) -> Iterator[Part]:
    own = [row for row in rows if not row["draw"]]
    drawn = [row for row in rows if row["draw"]]
    panels = {"the category's units": _cells(own)}
    if drawn:
        panels["random units"] = _cells(drawn)
    spec = charts.heatmaps(panels, result.summary["categories"], axes=("category off", "category asked"),
                           legend="change of accuracy", diverging=True)  # fmt: skip
    caption = (
        f"{target.capitalize()}: change of the share of right answers when the units of a category are off, or random "
        "ones in their place (mean over the draws)."
    )
    yield Figure(f"{target}-answers", spec, caption, [result.path(ANSWERS)])
    columns = ("category off", "category asked", "asked", "right", "accuracy", "change", "95% interval")
    cells = [(row["category_off"], row["category_measured"], row["instructions"], row["right"], row["accuracy"],
              row["change"], interval(row["ci_low"], row["ci_high"])) for row in own]  # fmt: skip
    yield table(columns, cells, [result.path(ANSWERS)], title="The same in numbers", folded=True)


def _cells(rows: Sequence[Row]) -> list[Row]:
    by_cell: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_cell.setdefault((row["category_off"], row["category_measured"]), []).append(row)
    found = {cell: mean(row["change"] for row in of) for cell, of in by_cell.items()}
    return [{"row": off, "column": asked, "value": value, "label": number(value)}
            for (off, asked), value in found.items()]  # fmt: skip
