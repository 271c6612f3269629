"""Alignment: whether units that are active most are those that the responses depend on."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import how_made, paragraph, settings, title_of
from sparcom_jax.report.parts import Choice, Figure, Headlines, Part
from sparcom_jax.results.numbers import mean
from sparcom_jax.results.reader import Result
from sparcom_jax.results.summary import ALIGNED
from sparcom_jax.results.tables import ALIGNMENT

PANELS = {
    "spearman": "correlation of the means",
    "spearman_over_others": "correlation of what is beyond other categories",
    "overlap": "overlap at the top, of the means",
    "overlap_over_others": "overlap at the top, beyond others",
}


def _headlines(result: Result, model: str) -> Iterator[Sequence[object]]:
    """Rows of the headlines, one per group of units."""
    for name, group in result.summary["groups"].items():
        yield result.name, model, name, *(mean(group[field]) for field in ALIGNED), group["chance"]


HEADLINES = Headlines(
    title="Frequency and attribution",
    columns=("result", "model", "units", "correlation", "beyond others", "overlap at the top", "beyond others",
             "chance"),
    meaning=(
        "Spearman correlation over the units of a layer of activation frequency with attribution, what the unit "
        "contributes to the likelihood of the responses; and the share of the highest by the one that are among the "
        "highest by the other. Means over layers and categories. Beyond others: less the mean of the other categories."
    ),
    rows=_headlines,
)  # fmt: skip


def alignment(result: Result) -> list[Part]:
    """How frequency and attribution agree, by group."""
    summary = result.summary
    return [
        paragraph(
            "How far the units that are active most are those that the likelihood of the responses depends on, layer",
            f"by layer (attribution: {how_made(summary)}; {settings(summary['settings'])}).",
        ),
        Choice("units", {title_of(name): [_group(result, name)] for name in summary["groups"]}),
    ]


def _group(result: Result, name: str) -> Figure:
    rows, chance = result.of_group(ALIGNMENT, name), result.summary["groups"][name]["chance"]
    panels = {
        title: [{"category": row["category"], "layer": row["layer"], "value": row[field]} for row in rows]
        for field, title in PANELS.items()
    }
    categories = result.summary["categories"]
    spec = charts.lines(panels, categories, x="layer", x_title="layer", y_title="agreement", whole=True)
    caption = (
        "Mean activation frequency against mean attribution over the units of a layer, by category: Spearman "
        "correlation, and the share of the highest by frequency that are among the highest by attribution"
        f"{'' if chance is None else f' (by chance {chance:.3g})'}. Beyond others: of both, less the mean of the other "
        "categories."
    )
    return Figure(f"{name}-alignment", spec, caption, [result.path(ALIGNMENT)])
