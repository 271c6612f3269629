"""Sweeps: how uniqueness, and what is general, depend on where S(i) is cut."""

from collections.abc import Iterator

from sparcom_jax.report import charts
from sparcom_jax.report.markup import how_made, paragraph, settings, table, title_of
from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tables import SWEEP

SHOWN = {
    "uniqueness": "uniqueness",
    "general_share": "share of the core that is general",
    "set_share": "mean |S(i)| / number of units",
}


def sweep(result: Result) -> list[Part]:
    """What a sweep shows, by group."""
    summary = result.summary
    swept = summary["swept"]
    meaning = {
        "threshold": "S(i) holds the units whose frequency p reaches the threshold, which is how public summaries "
        "describe the paper's rule; its threshold is not known.",
        "epsilon": "S(i) holds the top share epsilon of the units.",
    }[swept]
    return [
        paragraph(f"{meaning} ({how_made(summary)}; {settings(summary['settings'])})"),
        Choice("units", {title_of(name): [*_group(result, name)] for name in summary["groups"]}),
    ]


def _group(result: Result, name: str) -> Iterator[Part]:
    swept, rows = result.summary["swept"], result.of_group(SWEEP, name)
    panels = {title: [_point(row, field) for row in rows] for field, title in SHOWN.items()}
    spec = charts.lines(panels, result.summary["categories"], x="at", x_title=swept, y_title="share")
    caption = (
        f"{name}: uniqueness, share of a category's core units that are core to no other; how much of its core is core "
        f"to all categories; and the size of S(i), by {swept}."
    )
    yield Figure(f"{name}-sweep", spec, caption, [result.path(SWEEP)])
    columns = (swept, "category", "mean |S(i)|", "core units", "unique units", "uniqueness", "of the core general")
    cells = [(row["value"], row["category"], row["mean_set_size"], row["core_units"], row["unique_units"],
              row["uniqueness"], row["general_share"]) for row in rows]  # fmt: skip
    yield table(columns, cells, [result.path(SWEEP)], title="The same in numbers", folded=True)


def _point(row: Row, field: str) -> Row:
    return {"category": row["category"], "at": row["value"], "value": row[field]}
