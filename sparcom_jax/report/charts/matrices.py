"""Matrices: category tables, and combinations of categories."""

from collections.abc import Mapping, Sequence

import altair as alt

from sparcom_jax.report.charts.style import (
    AXIS,
    BLUE,
    CELL_WIDTHS,
    CHARACTER,
    LABELLED_CELL,
    PAIR_WIDTH,
    STRIP_WIDTH,
    TABLE_WIDTH,
    Data,
    Spec,
    places,
    short,
)
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Row


def heatmaps(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, axes: tuple[str, str], legend: str,
             diverging: bool = False) -> Spec:  # fmt: skip
    """Category tables side by side on one colour scale, from the least value, or centred on 0 if `diverging`.

    Args:
      panels: by title, rows with `row`, `column`, `value`, the `label` to print in the cell, and what the tooltip
        says besides, `told`, if there is any.
      categories: in the order of both axes.
      axes: titles of the rows and of the columns.
      legend: title of the colour scale.
      diverging: whether values have a sign.
    """
    data = Data()
    size = min(max(TABLE_WIDTH / max(len(categories), 1), CELL_WIDTHS[0]), CELL_WIDTHS[1])
    values = [row["value"] for rows in panels.values() for row in rows if row["value"] is not None]
    top = max(map(abs, values), default=0) or 1
    low = -top if diverging else min((value for value in values if value < top), default=0)
    scheme = "blueorange" if diverging else "blues"
    colour = alt.Color("value:Q", title=legend, scale=alt.Scale(scheme=scheme, domain=[low, top]),
                       legend=alt.Legend(orient="right", gradientLength=140, format=".3~g"))  # fmt: skip
    dark = f"abs(datum.value) > {0.72 * top if diverging else low + 0.72 * (top - low):.9g}"
    axis = alt.Axis(labelAngle=0 if short(categories) else -40, labelPadding=4)
    place = {
        "y": alt.Y("row:N", scale=places(categories), title=axes[0]),
        "x": alt.X("column:N", scale=places(categories), title=axes[1], axis=axis),
    }
    shown = [alt.Tooltip("row:N", title=axes[0]), alt.Tooltip("column:N", title=axes[1])]
    if size < LABELLED_CELL and _says_the_value(panels):
        panels = {title: [_without_label(row) for row in rows] for title, rows in panels.items()}
        shown.append(alt.Tooltip("value:Q", title=legend, format=".3r"))
    else:
        shown.append(alt.Tooltip("label:N", title=legend))
    if any(row.get("told") for rows in panels.values() for row in rows):
        shown.append(alt.Tooltip("told:N", title="value"))
    parts = []
    for title, rows in panels.items():
        defined = [row for row in rows if row["value"] is not None]
        layers = [data.chart(defined).mark_rect(stroke="white").encode(color=colour, tooltip=shown, **place)]
        if size >= LABELLED_CELL:
            layers.append(data.chart(rows).mark_text(fontSize=10, tooltip=None).encode(
                text="label:N", color=alt.condition(dark, alt.value("#ffffff"), alt.value("#000000")), **place
            ))  # fmt: skip
        parts.append(alt.layer(*layers).properties(width=alt.Step(size), height=alt.Step(min(size, 40)), title=title))
    width = size * len(categories) + min(CHARACTER * max(map(len, categories), default=0), AXIS["labelLimit"])
    return data.beside(parts, 2 if 2 * width <= PAIR_WIDTH else 1)


def _says_the_value(panels: Mapping[str, Sequence[Row]]) -> bool:
    return all(row["label"] == number(row["value"]) for rows in panels.values() for row in rows)


def _without_label(row: Row) -> Row:
    return {field: value for field, value in row.items() if field != "label"}


def strips(cells: Sequence[Row], rows: Sequence[str], columns: Sequence[str], *, axes: tuple[str, str], legend: str
           ) -> Spec:  # fmt: skip
    """One wide table of signed values, centred on 0, with cells that may be small.

    Args:
      cells: with `row`, `column`, `value` and the `label` of the tooltip.
      rows: in their order.
      columns: in their order.
      axes: titles of the rows and of the columns.
      legend: title of the colour scale.
    """
    data = Data()
    top = max((abs(cell["value"]) for cell in cells), default=0) or 1
    colour = alt.Color("value:Q", title=legend, scale=alt.Scale(scheme="blueorange", domain=[-top, top]),
                       legend=alt.Legend(orient="right", gradientLength=90, format=".2~g"))  # fmt: skip
    axis = alt.Axis(labelAngle=0, labelOverlap=True, labelSeparation=4)
    chart = data.chart(cells).mark_rect().encode(
        x=alt.X("column:N", scale=places(columns), title=axes[1], axis=axis),
        y=alt.Y("row:N", scale=places(rows), title=axes[0]),
        color=colour,
        tooltip=[alt.Tooltip("row:N", title=axes[0]), alt.Tooltip("column:N", title=axes[1]), alt.Tooltip("label:N")],
    )  # fmt: skip
    step = min(max(STRIP_WIDTH / max(len(columns), 1), 4), CELL_WIDTHS[1])
    return data.spec(chart.properties(width=alt.Step(step), height=alt.Step(20)))


def combinations(rows: Sequence[Row], categories: Sequence[str]) -> Spec:
    """An UpSet chart: a bar for every combination of categories, above dots for the categories that it joins.

    Args:
      rows: with `categories`, `units` and `members`, the categories joined; in the order of the bars.
      categories: in the order of the rows of dots.
    """
    data = Data()
    bars, dots, spans = [], [], []
    for place, row in enumerate(rows):
        name, members = row["categories"], row["members"]
        bars.append({"place": place, "categories": name, "units": row["units"], "shown": number(row["units"])})
        dots += [{"place": place, "categories": name, "category": one, "joined": one in members} for one in categories]
        spans += [{"place": place, "first": members[0], "last": members[-1]}] if members else []
    x = alt.X("place:O", axis=None)
    count = alt.Y("units:Q", title="core units", axis=alt.Axis(tickMinStep=1, format="~s"))
    tooltip = [alt.Tooltip("categories:N"), alt.Tooltip("units:Q", format=",")]
    tall = data.chart(bars).mark_bar(color=BLUE).encode(x=x, y=count, tooltip=tooltip)
    named = data.chart(bars).mark_text(dy=-6, fontSize=10).encode(x=x, y=count, text="shown:N")
    y = alt.Y("category:N", scale=places(categories), title=None, axis=alt.Axis(ticks=False, domain=False))
    marks = data.chart(dots).mark_point(filled=True, size=70, opacity=1, shape="circle").encode(
        x=x, y=y, color=alt.condition("datum.joined", alt.value(BLUE), alt.value("#bbbbbb55")),
        tooltip=[alt.Tooltip("categories:N")],
    )  # fmt: skip
    links = data.chart(spans).mark_rule(color=BLUE, strokeWidth=1.5).encode(
        x=x, y=alt.Y("first:N", scale=places(categories)), y2="last:N"
    )  # fmt: skip
    step = alt.Step(34)
    upper = alt.layer(tall, named).properties(width=step, height=170)
    lower = alt.layer(marks, links).properties(width=step, height=alt.Step(18))
    return data.spec(alt.vconcat(upper, lower, spacing=4).resolve_scale(x="shared"))
