"""Agreement: how far selectors choose the same units."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import paragraph, settings, table
from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.numbers import mean, number
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tables import AGREEMENT

TARGETS = ("neurons", "experts")


def agreement(result: Result) -> list[Part]:
    """How far selectors agree, by target."""
    rows = {target: [row for row in result.tables[AGREEMENT] if row["target"] == target] for target in TARGETS}
    return [
        paragraph("Units of every category by several selectors, from the same instructions "
                  f"({settings(result.summary['settings'])})."),
        Choice("units", {target: [*_target(result, target, of)] for target, of in rows.items() if of}),
    ]  # fmt: skip


def _target(result: Result, target: str, rows: Sequence[Row]) -> Iterator[Part]:
    panels = {"mean Jaccard": _cells(rows, "jaccard"), "mean Spearman of scores": _cells(rows, "spearman")}
    spec = charts.heatmaps(panels, result.summary["selectors"], axes=("selector", "selector"), legend="agreement",
                           diverging=True)  # fmt: skip
    caption = (
        f"{target.capitalize()}: units that two selectors both choose for a category / units that either does "
        "(Jaccard, 0 to 1), and Spearman correlation of their scores over all units, averaged over the categories."
    )
    yield Figure(f"{target}-agreement", spec, caption, [result.path(AGREEMENT)])
    columns = ("selector", "and", "category", "units", "units", "in common", "Jaccard", "chance", "Spearman of scores")
    names = ("selector_a", "selector_b", "category", "units_a", "units_b", "common", "jaccard", "chance", "spearman")
    cells = [tuple(row[name] for name in names) for row in rows]
    title = "The same by category; chance: random sets with as many units in every layer"
    yield table(columns, cells, [result.path(AGREEMENT)], title=title, folded=True)


def _cells(rows: Sequence[Row], key: str) -> list[Row]:
    by_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_pair.setdefault((row["selector_a"], row["selector_b"]), []).append(row)
    cells = []
    for (first, second), of in by_pair.items():
        value = mean(row[key] for row in of)
        for one, other in ((first, second), (second, first)):
            cells.append({"row": one, "column": other, "value": value, "label": number(value)})
    return cells
