"""Points: values of every category beside what they are to be compared with."""

from collections.abc import Mapping, Sequence

import altair as alt

from sparcom_jax.report.charts.style import BLUE, GREY, ORANGE, VERMILLION, Data, Spec, places, scale
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Row


def intervals(panels: Mapping[str, Sequence[Row]], categories: Sequence[str], *, title: str, names: tuple[str, str]
              ) -> Spec:  # fmt: skip
    """Per category a value with its interval, and what it is to be compared with.

    Args:
      panels: by title, rows with `category`, `what` (one of `names`), `value` and, if there are any, `low` and `high`.
      categories: from top to bottom.
      title: title of the x axis.
      names: what is measured, and what it is compared with.
    """
    data = Data()
    colour = alt.Color("what:N", title=None, scale=scale(names, (BLUE, VERMILLION)))
    shape = alt.Shape("what:N", title=None, scale=scale(names, ("circle", "M0,-1L0,1")))
    y = alt.Y("category:N", scale=places(categories), title=None)
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
    return data.beside(parts, 2, {"scale": {"x": "shared"}})


def draws(rows: Sequence[Row], ranges: Sequence[Row], categories: Sequence[str], chosen: str, title: str) -> Spec:
    """Per category the effect of its own units against that of random draws.

    Args:
      rows: with `category`, `what` (`chosen` or `random draw`) and `value`.
      ranges: with `category`, `low` and `high`, the interval of the random draws.
      categories: from top to bottom.
      chosen: what the category's own units are called.
      title: title of the x axis.
    """
    data = Data()
    names = (chosen, "random draw")
    y = alt.Y("category:N", scale=places(categories), title=None)
    x = alt.X("value:Q", title=title, axis=alt.Axis(format="~g"))
    zero = data.chart([{"value": 0}]).mark_rule(color="#aaaaaa", strokeDash=[3, 3]).encode(x=x)
    low = alt.X("low:Q", title=title)
    span = data.chart(ranges).mark_rule(strokeWidth=6, color="#cccccc").encode(x=low, x2="high:Q", y=y)
    points = data.chart([{**row, "shown": number(row["value"])} for row in rows]).mark_point(filled=True, opacity=0.85)
    points = points.encode(
        x=x, y=y, color=alt.Color("what:N", title=None, scale=scale(names, (VERMILLION, GREY))),
        shape=alt.Shape("what:N", title=None, scale=scale(names, ("diamond", "circle"))),
        size=alt.Size("what:O", title=None, sort=list(names), scale=scale(names, (130, 25))),
        tooltip=[alt.Tooltip("category:N"), alt.Tooltip("what:N"), alt.Tooltip("shown:N", title=title)],
    )  # fmt: skip
    return data.spec(alt.layer(zero, span, points).properties(width=560, height=alt.Step(28)))


def effects(rows: Sequence[Row], categories: Sequence[str], names: Sequence[str], title: str) -> Spec:
    """Per category the effect of its own units on itself, with its interval, and what that is to be compared with.

    Args:
      rows: with `category`, `what` (one of `names`), `value` and, of what is measured, `low` and `high`.
      categories: from top to bottom.
      names: what is measured, on the category and on others, and the controls.
      title: title of the x axis.
    """
    data = Data()
    y = alt.Y("category:N", scale=places(categories), title=None)
    x = alt.X("value:Q", title=title, axis=alt.Axis(format="~g", tickCount=6))
    zero = data.chart([{"value": 0}]).mark_rule(color="#aaaaaa", strokeDash=[3, 3]).encode(x=x)
    base = data.chart([{**row, "shown": number(row["value"])} for row in rows if row["value"] is not None]).encode(y=y)
    tooltip = [alt.Tooltip("category:N"), alt.Tooltip("what:N"), alt.Tooltip("shown:N", title=title),
               alt.Tooltip("low:Q", format=".3~g"), alt.Tooltip("high:Q", format=".3~g")]  # fmt: skip
    span = base.mark_rule(strokeWidth=2, color=VERMILLION).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    colours, shapes = (VERMILLION, BLUE, ORANGE, GREY), ("diamond", "circle", "M0,-1.3L0,1.3", "M0,-1L0,1")
    points = base.mark_point(size=70, strokeWidth=2.5, opacity=1).encode(
        x=x, color=alt.Color("what:N", title=None, scale=scale(names, colours)),
        shape=alt.Shape("what:N", title=None, scale=scale(names, shapes)), tooltip=tooltip,
    )  # fmt: skip
    height = max(min(26, 300 // max(len(categories), 1)), 14)
    return data.spec(alt.layer(zero, span, points).properties(width=560, height=alt.Step(height)))
