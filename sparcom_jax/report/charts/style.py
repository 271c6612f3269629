"""What all charts share. Categories keep one colour and one mark throughout, and no colour stands alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from sparcom_jax.results.reader import Row

# Okabe and Ito 2008: told apart with any kind of colour vision. Grey stands for their black, which a dark page hides.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#888888")
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right")
BLUE, SKY, ORANGE, VERMILLION, GREY = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#888888"

TABLE_WIDTH = 420
CELL_WIDTHS = (24, 60)
LABELLED_CELL = 36
PAIR_WIDTH = 880
"""Cells and labels of two tables that still stand side by side."""
STRIP_WIDTH = 640
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


class Data:
    """The rows of a chart, which its parts refer to by name: altair copies what it is given time and again."""

    def __init__(self) -> None:
        self._sets: dict[str, list[Row]] = {}

    def chart(self, rows: Sequence[Row]) -> Any:
        """A chart to be, of some rows; equal ones are kept once."""
        given = list(rows)
        name = next((name for name, known in self._sets.items() if known == given), f"rows{len(self._sets)}")
        self._sets[name] = given
        return alt.Chart(alt.NamedData(name))

    def spec(self, chart: Any) -> Spec:
        """The Vega-Lite of a finished chart."""
        return {**_plain(chart), "config": CONFIG, "datasets": self._sets}

    def beside(self, charts: Sequence[Any], columns: int, resolve: Mapping[str, Any] | None = None) -> Spec:
        """The Vega-Lite of finished charts side by side; altair would copy each time and again.

        Args:
          charts: in their order.
          columns: how many fit beside each other.
          resolve: which scales are shared, or not.
        """
        whole = {"concat": [_plain(chart) for chart in charts], "columns": columns, "spacing": 30}
        return whole | ({"resolve": resolve} if resolve else {}) | {"config": CONFIG, "datasets": self._sets}


def _plain(chart: Any) -> Spec:
    """A chart as JSON, without the name of its schema, for what draws it decides on the version, and without config."""
    spec: Spec = chart.to_dict(validate=False)
    return {name: value for name, value in spec.items() if name not in ("$schema", "config")}


def places(names: Sequence[str]) -> Any:
    """The scale of an axis of names, in their order."""
    return alt.Scale(domain=list(names))


def scale(names: Sequence[str], values: Sequence[Any]) -> Any:
    """The scale that gives every name one of the values."""
    return alt.Scale(domain=list(names), range=[values[at % len(values)] for at in range(len(names))])


def by_category(field: str, categories: Sequence[str]) -> tuple[Any, Any]:
    """Colour and mark of the categories."""
    legend = alt.Legend(orient="bottom", columns=8 if short(categories) else 4, symbolOpacity=1)
    return (alt.Color(f"{field}:N", title=field, scale=scale(categories, COLOURS), legend=legend),
            alt.Shape(f"{field}:N", title=field, scale=scale(categories, MARKS), legend=legend))  # fmt: skip


def in_panels(chart: Any) -> Any:
    """One small panel per category. They go by number: a list of names would become code that not all names survive."""
    order = alt.EncodingSortField("place", op="min")
    panel = alt.Facet("category:N", sort=order, title=None, header=alt.Header(labelFontWeight="bold", labelLimit=260))
    return chart.facet(panel, columns=3)


def placed(rows: Sequence[Row], categories: Sequence[str]) -> list[Row]:
    """The rows, each with the place of its panel."""
    return [{**row, "place": categories.index(row["category"])} for row in rows]


def short(categories: Sequence[str]) -> bool:
    """Whether all names are short enough to be written level."""
    return all(len(category) <= SHORT_NAME for category in categories)
