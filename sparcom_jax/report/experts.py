"""Experts: whether they specialise, by category and layer."""

from collections.abc import Sequence

from sparcom_jax.report import charts, marks
from sparcom_jax.report.markup import paragraph, table
from sparcom_jax.report.parts import Choice, Figure, Part
from sparcom_jax.results.numbers import mean
from sparcom_jax.results.reader import Number, Result, Row
from sparcom_jax.results.tables import ROUTING, ROUTING_DISTANCE

MOST_ROWS, MOST_CELLS = 400, 10_000
"""Of the table of shares, and of the charts, that the page has room for; the file has them all."""


def specialisation(result: Result) -> list[Part]:
    """How far the categories are routed apart; nothing of models without experts."""
    rows, distances = result.tables[ROUTING], result.tables[ROUTING_DISTANCE]
    if not rows:
        return []
    categories = result.summary["categories"]
    panels = {
        title: [{"category": row["category"], "layer": row["layer"], "value": row[field]} for row in distances]
        for field, title in (("distance", "of the category from the others"), ("null_mean", "of shuffled labels"))
    }
    least = min((row["p_value"] for row in distances if row["p_value"] is not None), default=None)
    apart = sum(marks.significant(row["q_value"]) for row in distances)
    caption = (
        "How far a category is routed apart from the others: total variation (0 to 1) between the shares of routing "
        "that the experts of a layer receive from it and from the others. Right the same of labels shuffled within "
        "strata of token count: few and short instructions are routed apart by chance alone."
    )
    spec = charts.lines(panels, categories, x="layer", x_title="layer", y_title="total variation", whole=True)
    tested = ""
    if least is not None:
        test = f"q < {marks.SIGNIFICANT}, one-sided; the least p is {least:.2g}"
        tested = f"{apart} of {len(distances)} distances exceed those of shuffled labels ({test})."
    by_layer: dict[str, list[Part]] = {}
    layers = _foremost(distances, MOST_CELLS * len(distances) // len(rows) // len(categories))
    for layer in layers:
        cells = [
            {"row": row["category"], "column": str(row["expert"]), "value": row["share"] - row["share_elsewhere"],
             "label": f"{row['share']:.0%} ({row['share_elsewhere']:.0%})"}
            for row in rows if row["layer"] == layer and row["share"] is not None
        ]  # fmt: skip
        names = list(dict.fromkeys(cell["column"] for cell in cells))
        told = (
            f"Layer {layer}: share of a category's routing that each expert receives, less that of the other "
            "categories (both in the tooltip)."
        )
        drawn = charts.strips(cells, categories, names, axes=("category", "expert"), legend="share less others'")
        by_layer[f"layer {layer}"] = [Figure(f"routing-layer-{layer}", drawn, told, [result.path(ROUTING)])]
    foremost = sorted(rows, key=lambda row: (row["share_elsewhere"] or 0) - (row["share"] or 0))[:MOST_ROWS]
    columns = ("category", "layer", "expert", "share", "share elsewhere")
    if left_out := len({row["layer"] for row in rows}) - len(layers):
        tested += f" The charts of {left_out} layers, where the categories are routed apart least, are left out."
    return [
        paragraph(tested),
        Figure("routing-distance", spec, caption, [result.path(ROUTING_DISTANCE)]),
        Choice("layer", by_layer),
        table(columns, [(row["category"], row["layer"], row["expert"], row["share"], row["share_elsewhere"])
                        for row in foremost], [result.path(ROUTING)], folded=True,
              title=f"The {len(foremost)} of {len(rows)} shares that are furthest above those of the others"),
    ]  # fmt: skip


def _foremost(distances: Sequence[Row], most: int) -> list[Number]:
    """So many layers, in order: those in which the categories are routed apart furthest."""
    by_layer: dict[Number, list[Number | None]] = {}
    for row in distances:
        by_layer.setdefault(row["layer"], []).append(row["distance"])
    ranked = sorted(by_layer, key=lambda layer: -(mean(by_layer[layer]) or 0))
    return sorted(ranked[: max(most, 1)])
