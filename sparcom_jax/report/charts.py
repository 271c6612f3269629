"""The charts, each from plain rows. Categories keep one colour and one mark throughout, and no colour stands alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from sparcom_jax.report.markup import number
from sparcom_jax.results.reader import Row

# Okabe and Ito 2008: told apart with any kind of colour vision. Yellow, hard to see on white, comes last.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442")
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
BLUE, SKY, ORANGE, VERMILLION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#777777"

CHANGES = ("retained", "gained", "lost")

TABLE_WIDTH = 420
CELL_WIDTHS = (24, 60)
LABELLED_CELL = 36
PAIR_WIDTH = 880
"""Cells and labels of two tables that still stand side by side."""
CHARACTER = 6
SHORT_NAME = 6

AXIS: dict[str, Any] = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "labelLimit": 140}
CONFIG = {
    "font": "Helvetica, Arial, sans-serif",
    "background": "white",
    "axis": AXIS,
    "legend": {"labelFontSize": 11, "titleFontSize": 12, "labelLimit": 200, "orient": "bottom"},
    "title": {"fontSize": 13, "anchor": "start"},
    "view": {"stroke": "#dddddd"},
}

Spec = dict[str, Any]


class _Data:
    """The rows of a chart, which its parts refer to by name: altair copies what it is given time and again."""

    def __init__(self) -> None:
        self._sets: dict[str, list[Row]] = {}

    def chart(self, rows: Sequence[Row]) -> Any:
        """A chart to be, of some rows."""
        name = f"rows{len(self._sets)}"
        self._sets[name] = list(rows)
        return alt.Chart(alt.NamedData(name))

    def spec(self, chart: Any) -> Spec:
        """The Vega-Lite of a finished chart, without the name of its schema: what draws it decides on the version."""
        spec: Spec = chart.to_dict(validate=False)
        spec.pop("$schema", None)
        return {**spec, "config": CONFIG, "datasets": self._sets}


def heatmaps(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, axes: tuple[str, str], legend: str,
             diverging: bool = False) -> Spec:  # fmt: skip
    """Category tables side by side on one colour scale, which is centred on 0 if `diverging`.

    Args:
      panels: by title, rows with `row`, `column`, `value` and the `label` to print in the cell.
      categories: in the order of both axes.
      axes: titles of the rows and of the columns.
      legend: title of the colour scale.
      diverging: whether values have a sign.
    """
    data = _Data()
    size = min(max(TABLE_WIDTH / max(len(categories), 1), CELL_WIDTHS[0]), CELL_WIDTHS[1])
    most = max((abs(row["value"]) for rows in panels.values() for row in rows if row["value"] is not None), default=0)
    top = most or 1
    scheme, low = ("blueorange", -top) if diverging else ("blues", 0)
    colour = alt.Color("value:Q", title=legend, scale=alt.Scale(scheme=scheme, domain=[low, top]),
                       legend=alt.Legend(orient="right", gradientLength=140, format=".3~g"))  # fmt: skip
    dark = f"abs(datum.value) > {0.72 * top:.9g}"
    axis = alt.Axis(labelAngle=0 if _short(categories) else -40, labelPadding=4)
    place = {
        "y": alt.Y("row:N", scale=_places(categories), title=axes[0]),
        "x": alt.X("column:N", scale=_places(categories), title=axes[1], axis=axis),
    }
    shown = [alt.Tooltip("row:N", title=axes[0]), alt.Tooltip("column:N", title=axes[1]), alt.Tooltip("label:N")]
    parts = []
    for title, rows in panels.items():
        defined = [row for row in rows if row["value"] is not None]
        cells = data.chart(defined).mark_rect(stroke="white").encode(color=colour, tooltip=shown, **place)
        labels = data.chart(rows).mark_text(fontSize=10, tooltip=None).encode(
            text="label:N", color=alt.condition(dark, alt.value("white"), alt.value("black")), **place
        )  # fmt: skip
        layers = (cells, labels) if size >= LABELLED_CELL else (cells,)
        parts.append(alt.layer(*layers).properties(width=alt.Step(size), height=alt.Step(min(size, 40)), title=title))
    width = size * len(categories) + min(CHARACTER * max(map(len, categories), default=0), AXIS["labelLimit"])
    return data.spec(alt.concat(*parts, columns=2 if 2 * width <= PAIR_WIDTH else 1, spacing=30))


def lines(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, x: str, x_title: str, y_title: str,
          whole: bool = False) -> Spec:  # fmt: skip
    """One line per category in every panel, with a band where rows hold `low` and `high`.

    Args:
      panels: by title, rows with `category`, the field `x`, and `value`.
      categories: in the order of the legend.
      x: name of the field of the x axis.
      x_title: its title.
      y_title: title of the y axis.
      whole: whether x takes whole numbers only.
    """
    data = _Data()
    values = [row[x] for rows in panels.values() for row in rows]
    span = (min(values), max(values)) if whole and values else (0, 1)
    margin = 0.03 * (span[1] - span[0]) or 0.5
    scale = alt.Scale(domain=[span[0] - margin, span[1] + margin], nice=False)
    axis = alt.Axis(tickMinStep=1, format="d") if whole else alt.Axis(values=[0, 0.2, 0.4, 0.6, 0.8, 1], format="~g")
    place = alt.X(f"{x}:Q", title=x_title, axis=axis, scale=scale)
    colour, shape = _by_category("category", categories)
    parts = []
    for title, rows in panels.items():
        defined = [{**row, "shown": number(row["value"])} for row in rows if row["value"] is not None]
        base = data.chart(defined).encode(x=place)
        value = alt.Y("value:Q", title=y_title, axis=alt.Axis(format="~g"))
        line = base.mark_line(strokeWidth=1.5).encode(y=value, color=colour)
        tooltip = [alt.Tooltip("category:N"), alt.Tooltip(f"{x}:Q", title=x_title), alt.Tooltip("shown:N", title=title)]
        points = base.mark_point(size=45, filled=True, opacity=1).encode(
            y=value, color=colour, shape=shape, tooltip=tooltip
        )
        layers = [line, points]
        if any(row.get("low") is not None for row in defined):
            band = base.mark_area(opacity=0.15).encode(y=alt.Y("low:Q", title=y_title), y2="high:Q", color=colour)
            layers.insert(0, band)
        parts.append(alt.layer(*layers).properties(width=400, height=210, title=title))
    return data.spec(alt.concat(*parts, columns=2, spacing=30))


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
    data = _Data()
    base = data.chart(_placed(rows, categories)).encode(
        x=alt.X("relative_depth:Q", title="relative depth", axis=alt.Axis(format="~g", tickCount=5)),
        y=alt.Y("value:Q", title=y_title, axis=alt.Axis(format="~g", tickCount=5)),
        color=alt.Color(
            "group:N", title="units", scale=_scale(series, COLOURS), legend=alt.Legend(symbolType="stroke")
        ),
    )
    dash = alt.StrokeDash(
        "model:N", title="model", scale=_scale(models, ([1, 0], [5, 3])), legend=alt.Legend(symbolType="stroke")
    )
    tooltip = [alt.Tooltip(f"{name}:N") for name in ("model", "group", "category", "relative_depth", "value")]
    chart = alt.layer(
        base.mark_line(strokeWidth=1.8).encode(strokeDash=dash),
        base.mark_point(size=60, opacity=0).encode(tooltip=tooltip),
    ).properties(width=270, height=120)  # fmt: skip
    return data.spec(_in_panels(chart))


def combinations(rows: Sequence[Row], categories: Sequence[str]) -> Spec:
    """An UpSet chart: a bar for every combination of categories, above dots for the categories that it joins.

    Args:
      rows: with `categories`, `units` and `members`, the categories joined; in the order of the bars.
      categories: in the order of the rows of dots.
    """
    data = _Data()
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
    y = alt.Y("category:N", scale=_places(categories), title=None, axis=alt.Axis(ticks=False, domain=False))
    marks = data.chart(dots).mark_point(filled=True, size=70, opacity=1, shape="circle").encode(
        x=x, y=y, color=alt.condition("datum.joined", alt.value("#333333"), alt.value("#dddddd")),
        tooltip=[alt.Tooltip("categories:N")],
    )  # fmt: skip
    links = data.chart(spans).mark_rule(color="#333333", strokeWidth=1.5).encode(
        x=x, y=alt.Y("first:N", scale=_places(categories)), y2="last:N"
    )  # fmt: skip
    step = alt.Step(34)
    upper = alt.layer(tall, named).properties(width=step, height=170)
    lower = alt.layer(marks, links).properties(width=step, height=alt.Step(18))
    return data.spec(alt.vconcat(upper, lower, spacing=4).resolve_scale(x="shared"))


def intervals(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, title: str, names: tuple[str, str]
              ) -> Spec:  # fmt: skip
    """Per category a value with its interval, and what it is to be compared with.

    Args:
      panels: by title, rows with `category`, `what` (one of `names`), `value` and, if there are any, `low` and `high`.
      categories: from top to bottom.
      title: title of the x axis.
      names: what is measured, and what it is compared with.
    """
    data = _Data()
    scale = {"color": (BLUE, VERMILLION), "shape": ("circle", "M0,-1L0,1")}
    colour = alt.Color("what:N", title=None, scale=_scale(names, scale["color"]))
    shape = alt.Shape("what:N", title=None, scale=_scale(names, scale["shape"]))
    y = alt.Y("category:N", scale=_places(categories), title=None)
    parts = []
    for name, rows in panels.items():
        defined = [{**row, "shown": number(row["value"])} for row in rows if row["value"] is not None]
        base = data.chart(defined).encode(y=y)
        rule = base.mark_rule(strokeWidth=2, color=BLUE).encode(x=alt.X("low:Q", title=title), x2="high:Q")
        point = base.mark_point(size=60, strokeWidth=2, opacity=1, fill="white").encode(
            x=alt.X("value:Q", title=title, axis=alt.Axis(format="~g", tickCount=6)), color=colour, shape=shape,
            tooltip=[alt.Tooltip("category:N"), alt.Tooltip("what:N"), alt.Tooltip("shown:N", title=title)],
        )  # fmt: skip
        parts.append(alt.layer(rule, point).properties(width=350, height=alt.Step(24), title=name))
    return data.spec(alt.concat(*parts, columns=2, spacing=30).resolve_scale(x="shared"))


def changed(panels: Mapping[str, Sequence[Row]], categories: Sequence[str]) -> Spec:
    """Units retained, gained and lost: one stacked bar per category.

    Args:
      panels: by title, rows with `category`, `change` and `units`.
      categories: from top to bottom.
    """
    data = _Data()
    y = alt.Y("category:N", scale=_places(categories), title=None)
    parts = [
        data.chart(_stacked(rows))
        .mark_bar()
        .encode(x=alt.X("units:Q", title="core units", axis=alt.Axis(tickMinStep=1, format="~s")), y=y, **_changes())
        .properties(width=350, height=alt.Step(24), title=title)
        for title, rows in panels.items()
    ]
    return data.spec(alt.concat(*parts, columns=2, spacing=30))


def changed_by_layer(rows: Sequence[Row], categories: Sequence[str]) -> Spec:
    """The same by layer, one small panel per category.

    Args:
      rows: with `category`, `layer`, `change` and `units`.
      categories: in the order of the panels.
    """
    data = _Data()
    chart = data.chart(_placed(_stacked(rows), categories)).mark_bar().encode(
        x=alt.X("layer:O", axis=alt.Axis(labelAngle=0, labelOverlap=True, labelSeparation=6, ticks=False)),
        y=alt.Y("units:Q", title="core units", axis=alt.Axis(tickMinStep=1, tickCount=4, format="~s")),
        **_changes(),
    ).properties(width=270, height=110)  # fmt: skip
    return data.spec(_in_panels(chart))


def draws(rows: Sequence[Row], ranges: Sequence[Row], categories: Sequence[str], chosen: str, title: str) -> Spec:
    """Per category the effect of its own units against that of random draws.

    Args:
      rows: with `category`, `what` (`chosen` or `random draw`) and `value`.
      ranges: with `category`, `low` and `high`, the interval of the random draws.
      categories: from top to bottom.
      chosen: what the category's own units are called.
      title: title of the x axis.
    """
    data = _Data()
    names = (chosen, "random draw")
    y = alt.Y("category:N", scale=_places(categories), title=None)
    x = alt.X("value:Q", title=title, axis=alt.Axis(format="~g"))
    zero = data.chart([{"value": 0}]).mark_rule(color="#aaaaaa", strokeDash=[3, 3]).encode(x=x)
    low = alt.X("low:Q", title=title)
    span = data.chart(ranges).mark_rule(strokeWidth=6, color="#cccccc").encode(x=low, x2="high:Q", y=y)
    points = data.chart([{**row, "shown": number(row["value"])} for row in rows]).mark_point(filled=True, opacity=0.85)
    points = points.encode(
        x=x, y=y, color=alt.Color("what:N", title=None, scale=_scale(names, (VERMILLION, GREY))),
        shape=alt.Shape("what:N", title=None, scale=_scale(names, ("diamond", "circle"))),
        size=alt.Size("what:O", title=None, sort=list(names), scale=_scale(names, (130, 25))),
        tooltip=[alt.Tooltip("category:N"), alt.Tooltip("what:N"), alt.Tooltip("shown:N", title=title)],
    )  # fmt: skip
    return data.spec(alt.layer(zero, span, points).properties(width=560, height=alt.Step(28)))


def _places(names: Sequence[str]) -> Any:
    return alt.Scale(domain=list(names))


def _scale(names: Sequence[str], values: Sequence[Any]) -> Any:
    return alt.Scale(domain=list(names), range=[values[at % len(values)] for at in range(len(names))])


def _by_category(field: str, categories: Sequence[str]) -> tuple[Any, Any]:
    legend = alt.Legend(orient="bottom", columns=8 if _short(categories) else 4, symbolOpacity=1)
    return (alt.Color(f"{field}:N", title=field, scale=_scale(categories, COLOURS), legend=legend),
            alt.Shape(f"{field}:N", title=field, scale=_scale(categories, MARKS), legend=legend))  # fmt: skip


def _in_panels(chart: Any) -> Any:
    """One small panel per category. They go by number: a list of names would become code that not all names survive."""
    order = alt.EncodingSortField("place", op="min")
    panel = alt.Facet("category:N", sort=order, title=None, header=alt.Header(labelFontWeight="bold", labelLimit=260))
    return chart.facet(panel, columns=3)


def _placed(rows: Sequence[Row], categories: Sequence[str]) -> list[Row]:
    return [{**row, "place": categories.index(row["category"])} for row in rows]


def _stacked(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "order": CHANGES.index(row["change"])} for row in rows]


def _changes() -> dict[str, Any]:
    return {
        "color": alt.Color("change:N", title=None, scale=_scale(CHANGES, (BLUE, SKY, ORANGE))),
        "order": alt.Order("order:Q"),
        "tooltip": [alt.Tooltip("category:N"), alt.Tooltip("change:N"), alt.Tooltip("units:Q", format=",")],
    }


def _short(categories: Sequence[str]) -> bool:
    return all(len(category) <= SHORT_NAME for category in categories)
