"""Bars: units retained, gained and lost."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from sparcom_jax.report.charts.style import BLUE, ORANGE, SKY, Data, Spec, in_panels, placed, places, scale
from sparcom_jax.results.reader import Row

CHANGES = ("retained", "gained", "lost")


def changed(panels: Mapping[str, Sequence[Row]], categories: Sequence[str]) -> Spec:
    """Units retained, gained and lost: one stacked bar per category.

    Args:
      panels: by title, rows with `category`, `change` and `units`.
      categories: from top to bottom.
    """
    data = Data()
    y = alt.Y("category:N", scale=places(categories), title=None)
    parts = [
        data.chart(_stacked(rows))
        .mark_bar()
        .encode(x=alt.X("units:Q", title="core units", axis=alt.Axis(tickMinStep=1, format="~s")), y=y, **_changes())
        .properties(width=350, height=alt.Step(24), title=title)
        for title, rows in panels.items()
    ]
    return data.beside(parts, 2)


def changed_by_layer(rows: Sequence[Row], categories: Sequence[str]) -> Spec:
    """The same by layer, one small panel per category.

    Args:
      rows: with `category`, `layer`, `change` and `units`.
      categories: in the order of the panels.
    """
    data = Data()
    chart = data.chart(placed(_stacked(rows), categories)).mark_bar().encode(
        x=alt.X("layer:O", axis=alt.Axis(labelAngle=0, labelOverlap=True, labelSeparation=6, ticks=False)),
        y=alt.Y("units:Q", title="core units", axis=alt.Axis(tickMinStep=1, tickCount=4, format="~s")),
        **_changes(),
    ).properties(width=270, height=110)  # fmt: skip
    return data.spec(in_panels(chart))


def _stacked(rows: Sequence[Row]) -> list[Row]:
    return [{**row, "order": CHANGES.index(row["change"])} for row in rows]


def _changes() -> dict[str, Any]:
    return {
        "color": alt.Color("change:N", title=None, scale=scale(CHANGES, (BLUE, SKY, ORANGE))),
        "order": alt.Order("order:Q"),
        "tooltip": [alt.Tooltip("category:N"), alt.Tooltip("change:N"), alt.Tooltip("units:Q", format=",")],
    }
