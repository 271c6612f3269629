"""Trainings compared: what each gains and forgets, and which units changed."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import paragraph, settings, table
from sparcom_jax.report.parts import Figure, Part
from sparcom_jax.results.numbers import interval, number
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tunings import TUNED_UNITS, TUNING_CHANGES, TUNINGS

NAMES = ("learnt categories", "other categories")


def comparison(result: Result) -> list[Part]:
    """What the trainings come to."""
    summary, rows = result.summary, result.tables[TUNINGS]
    learnt = [name for name, count in zip(summary["categories"], summary["learnt"], strict=True) if count]
    parts: list[Part] = [
        paragraph(
            f"Trainings on {', '.join(learnt)}, measured on held-out instructions ({settings(summary['settings'])}).",
            "Change of their loss in nats per token, with 95% intervals over instructions and seeds.",
            "" if summary["held_out"] else "Some of these instructions chose the units, which flatters them.",
        ),
        Figure("tunings", charts.effects([*_points(rows)], [row["training"] for row in rows], NAMES,
                                         "change of the loss, nats per token"),
               "What each training does to held-out instructions of the categories that it learnt from, and of others.",
               [result.path(TUNINGS)]),
    ]  # fmt: skip
    columns = ("trained", "parameters", "learning rate", "seeds", "gain", "95% interval", "forgetting", "95% interval",
               "share of all", "95% interval", "gain per million")  # fmt: skip
    parts.append(table(columns, [*_cells(rows)], [result.path(TUNINGS)], title="Gain and forgetting"))
    changes = result.tables[TUNING_CHANGES]
    changed = [{"row": row["training"], "column": row["category"], "value": row["change"],
              "label": number(row["change"])} for row in changes]  # fmt: skip
    spec = charts.strips(changed, [row["training"] for row in rows], summary["categories"],
                         axes=("trained", "category"), legend="change of the loss")  # fmt: skip
    parts.append(Figure("tuning-changes", spec, "The same by category.", [result.path(TUNING_CHANGES)]))
    units = result.tables[TUNED_UNITS]
    if units:
        heads = ("trained", "units of", "units", "drift", "percentile", "95% of random sets", "p")
        cells = [(row["training"], row["units"], row["count"], row["drift"], row["percentile"],
                  interval(row["random_low"], row["random_high"]), row["p_value"]) for row in units]  # fmt: skip
        parts.append(
            paragraph(
                "Which units changed? Of every tuned model, how far up the units of each training are among all of "
                "their layer by how much their frequency in the learnt categories changed, 0 to 1. Units that are "
                "always or never active can change little: chance is what random sets have, which are as many in every "
                "layer and decile of frequency."
            )
        )
        parts.append(table(heads, cells, [result.path(TUNED_UNITS)], title="Units that tuning changed"))
    return parts


def _points(rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        ends = ("gain", "value"), ("gain_high", "low"), ("gain_low", "high")
        own = {end: None if row[name] is None else -row[name] for name, end in ends}
        others = {"value": row["forgetting"], "low": row["forgetting_low"], "high": row["forgetting_high"]}
        for what, values in zip(NAMES, (own, others), strict=True):
            if values["value"] is not None:
                yield {"category": row["training"], "what": what, **values}


def _cells(rows: Sequence[Row]) -> Iterator[Sequence[object]]:
    for row in rows:
        ends = {name: interval(row[f"{name}_low"], row[f"{name}_high"]) for name in ("gain", "forgetting", "share")}
        yield (row["training"], row["parameters"], row["learning_rate"], row["seeds"], row["gain"], ends["gain"],
               row["forgetting"], ends["forgetting"], row["share"], ends["share"], row["gain_per_million"])  # fmt: skip
