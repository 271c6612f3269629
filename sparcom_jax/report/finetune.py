"""Trainings: what the loss of every category became while a part of the model was trained."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import paragraph, settings, table
from sparcom_jax.report.parts import Figure, Headlines, Part
from sparcom_jax.results.numbers import interval, mean, number
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tuning import EVALUATION

CHANGE = "change of the loss, nats per token"


def training(result: Result) -> list[Part]:
    """What became of the loss of every category."""
    summary = result.summary
    train, size = summary["train"], summary["bytes"]
    share = train["parameters"] / summary["model"]["parameters"]
    learnt = zip(summary["categories"], summary["learnt"], strict=True)
    stopped = f", of {number(summary['of_steps'])} planned" if summary["steps"] < summary["of_steps"] else ""
    parts: list[Part] = [
        paragraph(
            f"Trained: {train['name']}, {number(train['parameters'])} parameters ({share:.3%} of the model), in "
            f"{number(summary['steps'])} steps{stopped}, on {_listed(learnt)} ({settings(summary['settings'])}).",
            f"The optimizer's state took {size['optimizer'] / 1e6:.3g} MB.",
            "" if summary["held_out"] else "Some held-out instructions chose the units, which flatters these.",
        )
    ]
    rows = [row for row in result.tables[EVALUATION] if row["part"] == "held_out"]
    if not rows:
        return parts
    steps = sorted({row["step"] for row in rows})
    if len(steps) > 2:
        curve = [{"category": row["category"], "step": row["step"], "value": row["change"]} for row in rows]
        spec = charts.lines({"held out": curve}, summary["categories"], x="step", x_title="step",
                            y_title=CHANGE, whole=True)  # fmt: skip
        caption = f"Loss of held-out instructions of each category while {train['name']} was trained."
        parts.append(Figure("training", spec, caption, [result.path(EVALUATION)]))
    last = [row for row in rows if row["step"] == summary["kept"]]
    cells = [(row["category"], row["instructions"], row["nll"], row["change"],
              interval(row["ci_low"], row["ci_high"])) for row in last]  # fmt: skip
    columns = ("category", "instructions", "loss", "change", "95% interval")
    title = "Held-out instructions, by the model that was kept"
    parts.append(table(columns, cells, [result.path(EVALUATION)], title=title))
    return parts


def _listed(learnt: Iterator[tuple[str, int]]) -> str:
    return ", ".join(f"{number(count)} of {name}" for name, count in learnt if count)


def kept(result: Result) -> tuple[list[Row], list[Row]]:
    """What the model that was kept makes of held-out instructions: of categories that were learnt, and of others."""
    summary = result.summary
    learnt = {name for name, count in zip(summary["categories"], summary["learnt"], strict=True) if count}
    rows = [row for row in result.tables[EVALUATION]
            if row["part"] == "held_out" and row["step"] == summary["kept"]]  # fmt: skip
    return [row for row in rows if row["category"] in learnt], [row for row in rows if row["category"] not in learnt]


def _headlines(result: Result, name: str) -> Iterator[Sequence[object]]:
    own, others = kept(result)
    if own or others:
        yield (name, result.summary["train"]["name"], result.summary["train"]["parameters"],
               mean(row["change"] for row in own), mean(row["change"] for row in others))  # fmt: skip


HEADLINES = Headlines(
    "Change of the loss of held-out instructions, by what was trained",
    ("model", "trained", "parameters", "learnt categories", "other categories"),
    "In nats per token, as a mean over categories: below 0 is better, above 0 is forgetting.",
    _headlines,
)
