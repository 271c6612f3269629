"""Steering: what becomes of the answers as a category's units are turned up and down."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import how_made, paragraph, settings, table
from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.numbers import interval, mean
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.steering import STEERING

SHOWN = {"change": "loss of the reference responses, change", "own_nll": "loss of the answers by the model as it is",
         "repeated": "share of repeated runs of tokens", "right": "share of right answers"}  # fmt: skip


def steering(result: Result) -> list[Part]:
    """Dose against quality, by the category whose units are scaled."""
    summary = result.summary
    parts: list[Part] = [
        paragraph(
            f"What a category's neurons write, multiplied by a factor at every token of prompt and answer "
            f"({how_made(summary)}; {settings(summary['settings'])}).",
            "1 is the model as it is. Answers are greedy; the losses are in nats per token.",
            "" if summary["held_out"] else "These instructions chose the units, which flatters them.",
        )
    ]
    rows = result.tables[STEERING]
    return [*parts, Choice("units of", {name: [*_category(result, rows, name)] for name in summary["steered"]})]


def _category(result: Result, rows: Sequence[Row], name: str) -> Iterator[Part]:
    as_it_is = [row for row in rows if row["kind"] == "none"]
    own = [row for row in rows if row["category_steered"] == name and not row["draw"]]
    drawn = [row for row in rows if row["category_steered"] == name and row["draw"]]
    panels = {}
    for field, title in SHOWN.items():
        points = [_point(row, field) for row in sorted([*own, *as_it_is], key=lambda row: row["alpha"])]
        if any(point["value"] is not None for point in points):
            panels[title] = points
    spec = charts.lines(panels, result.summary["categories"], x="alpha", x_title="factor", y_title="", whole=True)
    caption = f"Answers to held-out instructions of each category while the neurons of {name} are scaled."
    yield Figure(f"{name}-steering", spec, caption, [result.path(STEERING)])
    columns = ("factor", "category", "asked", "change of the loss", "95% interval", "the same with random units",
               "tokens", "ended", "repeated", "loss of the answers", "right")  # fmt: skip
    cells = []
    for row in sorted([*own, *as_it_is], key=lambda row: (row["alpha"], row["category_measured"] != name)):
        of = [one["change"] for one in drawn if (one["alpha"], one["category_measured"]) ==
              (row["alpha"], row["category_measured"])]  # fmt: skip
        ends = interval(row["ci_low"], row["ci_high"])
        cells.append((row["alpha"], row["category_measured"], row["instructions"], row["change"], ends, mean(of),
                      *(row[field] for field in ("tokens", "ended", "repeated", "own_nll", "right"))))  # fmt: skip
    yield table(columns, cells, [result.path(STEERING)], title="The same in numbers", folded=True)


def _point(row: Row, field: str) -> Row:
    return {"category": row["category_measured"], "alpha": row["alpha"], "value": row[field]}
