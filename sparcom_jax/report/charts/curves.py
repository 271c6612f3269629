"""Curves: values of every category over layers, depths or numbers of units."""

from collections.abc import Mapping, Sequence

import altair as alt

from sparcom_jax.report.charts.style import COLOURS, Data, Spec, by_category, in_panels, placed, places, scale
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Row


def lines(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, x: str, x_title: str, y_title: str,
          whole: bool = False) -> Spec:  # fmt: skip
    """One line per category in every panel, with a band where rows hold `low` and `high`.

    Args:
      panels: by title, rows with `category`, the field `x`, and `value`.
      categories: in the order of the legend.
      x: name of the field of the x axis; lines break between rows whose `layer`, if they hold one, is not the next.
      x_title: its title.
      y_title: title of the y axis.
      whole: whether x takes whole numbers only.
    """
    if len(categories) > len(COLOURS):
        return _strips(panels, categories, x, x_title, y_title)
    data = Data()
    values = [row[x] for rows in panels.values() for row in rows]
    span = (min(values), max(values)) if whole and values else (0, 1)
    margin = 0.03 * (span[1] - span[0]) or 0.5
    ends = alt.Scale(domain=[span[0] - margin, span[1] + margin], nice=False)
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")
    place = alt.X(f"{x}:Q", title=x_title, axis=axis, scale=ends)
    colour, shape = by_category("category", categories)
    parts = []
    for title, rows in panels.items():
        defined = _in_pieces([{**row, "shown": number(row["value"])} for row in rows if row["value"] is not None])
        base = data.chart(defined).encode(x=place)
        value = alt.Y("value:Q", title=y_title, axis=alt.Axis(format="~g"))
        line = base.mark_line(strokeWidth=1.5).encode(y=value, color=colour, detail="piece:N")
        tooltip = [alt.Tooltip("category:N"), alt.Tooltip(f"{x}:Q", title=x_title), alt.Tooltip("shown:N", title=title)]
        points = base.mark_point(size=45, filled=True, opacity=1).encode(
            y=value, color=colour, shape=shape, tooltip=tooltip
        )
        layers = [line, points]
        if any(row.get("low") is not None for row in defined):
            low = alt.Y("low:Q", title=y_title)
            layers.insert(0, base.mark_area(opacity=0.15).encode(y=low, y2="high:Q", color=colour, detail="piece:N"))
        parts.append(alt.layer(*layers).properties(width=400, height=210, title=title))
    return data.beside(parts, 2)


def _strips(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], x: str, x_title: str, y_title: str) -> Spec:
    """The same for more categories than there are colours: a strip for each, with the value as its shade."""
    data = Data()
    parts = []
    for title, rows in panels.items():
        defined = [{**row, "shown": number(row["value"])} for row in rows if row["value"] is not None]
        shade = alt.Color("value:Q", title=y_title, scale=alt.Scale(scheme="blues"),
                          legend=alt.Legend(orient="right", gradientLength=140, format=".3~g"))  # fmt: skip
        chart = data.chart(defined).mark_rect().encode(
            x=alt.X(f"{x}:O", title=x_title, axis=alt.Axis(format=".2~g", labelOverlap=True, labelAngle=0)),
            y=alt.Y("category:N", scale=places(categories), title=None),
            color=shade,
            tooltip=[alt.Tooltip("category:N"), alt.Tooltip(f"{x}:Q", title=x_title),
                     alt.Tooltip("shown:N", title=title)],
        )  # fmt: skip
        parts.append(chart.properties(width=600, height=alt.Step(14), title=title))
    return data.beside(parts, 1, {"scale": {"color": "independent"}})


def _in_pieces(rows: Sequence[Row]) -> list[Row]:
    """The rows with the number of their line; where rows hold a `layer`, no line crosses layers that lack the units."""
    found, piece = [], 0
    by_category: dict[str, list[Row]] = {}
    for row in rows:
        by_category.setdefault(row["category"], []).append(row)
    for of in by_category.values():
        ordered = sorted(of, key=lambda row: row["layer"]) if all("layer" in row for row in of) else of
        for before, row in zip([None, *ordered], ordered, strict=False):
            piece += before is not None and "layer" in row and row["layer"] > before["layer"] + 1
            found.append({**row, "piece": piece})
    return found


def profiles(rows: Sequence[Row], categories: Sequence[str], series: Sequence[str], models: Sequence[str],
             y_title: str) -> Spec:  # fmt: skip
    """Depth profiles of two models, one small panel per category: groups by colour, models by dash.

    Args:
      rows: with `category`, `model`, `group`, `relative_depth` and `value`.
      categories: in the order of the panels.
      series: the groups, in the order of the legend.
      models: in the order of the legend.
      y_title: title of the y axis.
    """
    data = Data()
    base = data.chart(placed(rows, categories)).encode(
        x=alt.X("relative_depth:Q", title="relative depth", axis=alt.Axis(format="~g", tickCount=5)),
        y=alt.Y("value:Q", title=y_title, axis=alt.Axis(format="~g", tickCount=5)),
        color=alt.Color("group:N", title="units", scale=scale(series, COLOURS), legend=alt.Legend(symbolType="stroke")),
    )
    dash = alt.StrokeDash(
        "model:N", title="model", scale=scale(models, ([1, 0], [5, 3])), legend=alt.Legend(symbolType="stroke")
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("model", "group", "category", "relative_depth", "value")]
    chart = alt.layer(
        base.mark_line(strokeWidth=1.8).encode(strokeDash=dash),
        base.mark_point(size=12, filled=True, opacity=1).encode(tooltip=tooltip),
    ).properties(width=270, height=120)  # fmt: skip
    return data.spec(in_panels(chart))
