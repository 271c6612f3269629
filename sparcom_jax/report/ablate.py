"""The section of an ablation: what switching off the units of one category does to the loss on every other."""

from collections.abc import Iterator, Sequence
from typing import Any

from sparcom_jax.report import charts
from sparcom_jax.report.markup import (
    Figure,
    Headlines,
    Section,
    heading,
    how_made,
    interval,
    mean,
    number,
    paragraph,
    settings,
    table,
)
from sparcom_jax.results.reader import Number, Result, Row
from sparcom_jax.results.tables import ABLATION, BASELINE

CHANGE = "change of NLL (nats per token)"
SIGNIFICANT = 0.05

Table = Sequence[Sequence[Number | None]]


def _headlines(result: Result, model: str) -> Iterator[Sequence[object]]:
    """Rows of the headlines, one per target."""
    for target, found in result.summary["targets"].items():
        changes: tuple[Table, Table] = (found["delta"], found["random_mean"])
        own = [mean(row[c] for c, row in enumerate(change)) for change in changes]
        other = [
            mean(value for c, row in enumerate(change) for value in (*row[:c], *row[c + 1 :])) for change in changes
        ]
        yield result.name, model, target, *own, *other


HEADLINES = Headlines(
    title="Switched off",
    columns=(
        "result",
        "model",
        "switched off",
        "own category, core",
        "own category, random",
        "other categories, core",
        "other categories, random",
    ),
    meaning=(
        "Mean change of the negative log-likelihood (nats per token) when the core units of a category, or as many "
        "random ones, are switched off: on that category itself, and on the others."
    ),
    rows=_headlines,
)


def section(result: Result) -> Section:
    """Everything that the page says about an ablation."""
    summary = result.summary
    made, what = how_made(summary), "Units" if "units" in summary else "Core units"
    parts: list[str | Figure] = [
        paragraph(
            f"{what} of one category at a time are switched off ({made}; {settings(summary['settings'])}),",
            "and the loss on every category is measured again. Random units, as many in every layer, are the control.",
        )
    ]
    for target, found in summary["targets"].items():
        parts += [heading(target), *_target(result, target, found)]
    columns = ("category", "instructions", "tokens", "NLL (nats per token)")
    rows = [list(row.values()) for row in result.tables[BASELINE]]
    title = "Mean negative log-likelihood with nothing switched off"
    return Section(result, [*parts, heading("Baseline"), table(columns, rows, [result.path(BASELINE)], title=title)])


def _target(result: Result, target: str, found: dict[str, Any]) -> Iterator[str | Figure]:
    categories = result.summary["categories"]
    chosen = result.summary["units"]["selector"] if "units" in result.summary else "core"
    source = [result.path(ABLATION)]
    panels = {
        f"{chosen} {target} of the category off": _cells(found["delta"], categories, found["p_value"]),
        f"random {target} off, mean of the draws": _cells(found["random_mean"], categories),
    }
    caption = (
        "Change of the mean negative log-likelihood (NLL, nats per token; above 0 the model got worse) on one category "
        f"while the {target} of another are switched off. Random: as many units in every layer, mean over the draws. "
        f"* p < {SIGNIFICANT} against the random draws, not corrected for the number of cells."
    )
    axes = ("units of category off", "category measured")
    spec = charts.heatmaps(panels, categories, axes=axes, legend="change of NLL", diverging=True)
    yield Figure(f"{target}-change", spec, caption, source)
    own = [
        row
        for row in result.tables[ABLATION]
        if row["target"] == target and row["category_off"] == row["category_measured"] and row["delta"] is not None
    ]
    named = {chosen: f"{chosen} units", "random": "random draw"}
    points = [{"category": row["category_off"], "what": named.get(row["kind"], row["kind"]), "value": row["delta"]}
              for row in own]  # fmt: skip
    ranges = [
        {"category": category, "low": found["random_low"][c][c], "high": found["random_high"][c][c]}
        for c, category in enumerate(categories)
        if found["random_low"][c][c] is not None and found["random_high"][c][c] is not None
    ]
    caption = (
        f"The diagonal: change of NLL (nats per token) on a category when its own {chosen} units are off, against "
        "every draw of random units; the grey bar is the interval of the draws."
    )
    spec = charts.draws(points, ranges, categories, f"{chosen} units", CHANGE)
    yield Figure(f"{target}-against-random", spec, caption, source)
    columns = ("category", "units off", f"change, {chosen}", "change, random", "interval of the draws", "p")
    rows = [
        (category, found["units_off"][c], found["delta"][c][c], found["random_mean"][c][c],
         interval(found["random_low"][c][c], found["random_high"][c][c]), found["p_value"][c][c])
        for c, category in enumerate(categories)
    ]  # fmt: skip
    yield table(columns, rows, source, title="The diagonal in numbers")


def _cells(values: Table, categories: Sequence[str], p_values: Table | None = None) -> list[Row]:
    return [
        {"row": off, "column": measured, "value": values[a][b],
         "label": number(values[a][b]) + ("*" if p_values and _significant(p_values[a][b]) else "")}
        for a, off in enumerate(categories)
        for b, measured in enumerate(categories)
    ]  # fmt: skip


def _significant(p_value: Number | None) -> bool:
    return p_value is not None and p_value < SIGNIFICANT
