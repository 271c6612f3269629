"""The section of an alignment: whether units that are active most are those that the responses depend on."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import Figure, Headlines, Section, heading, how_made, mean, paragraph, settings
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
        "highest by the other. Means over layers and categories. Excess: over the other categories."
    ),
    rows=_headlines,
)  # fmt: skip


def section(result: Result) -> Section:
    """Everything that the page says about an alignment."""
    summary = result.summary
    parts: list[str | Figure] = [
        paragraph(
            "How far the units that are active most are those that the likelihood of the responses depends on, layer",
            f"by layer (attribution: {how_made(summary)}; {settings(summary['settings'])}).",
        )
    ]
    for name, group in summary["groups"].items():
        rows = result.of_group(ALIGNMENT, name)
        panels = {
            title: [{"category": row["category"], "layer": row["layer"], "value": row[field]} for row in rows]
            for field, title in PANELS.items()
        }
        spec = charts.lines(panels, summary["categories"], x="layer", x_title="layer", y_title="agreement", whole=True)
        caption = (
            "Mean activation frequency against mean attribution over the units of a layer, by category: Spearman "
            "correlation, and the share of the highest by frequency that are among the highest by attribution (by "
            f"chance {group['chance']:.3g}). Excess: of both, less the mean of the other categories."
        )
        parts += [heading(name), Figure(f"{name}-alignment", spec, caption, [result.path(ALIGNMENT)])]
    return Section(result, parts)
