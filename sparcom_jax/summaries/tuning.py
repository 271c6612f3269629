"""The summaries of a training, and of trainings that are compared."""

from sparcom_jax.results.numbers import interval, number
from sparcom_jax.results.reader import Result
from sparcom_jax.results.tuning import EVALUATION
from sparcom_jax.results.tunings import TUNED_UNITS, TUNINGS
from sparcom_jax.summaries.summary import Cell, Table

TABLES = (EVALUATION,)
COMPARED = (TUNINGS, TUNED_UNITS)


def facts(result: Result) -> list[tuple[str, str]]:
    """What was trained, and how."""
    summary = result.summary
    train, size = summary["train"], summary["bytes"]
    share = train["parameters"] / summary["model"]["parameters"]
    learnt = zip(summary["categories"], summary["learnt"], strict=True)
    kept = f"; kept: that after {summary['kept']:,}" if summary["kept"] != summary["steps"] else ""
    return [
        ("trained", f"{train['name']}: {train['parameters']:,} parameters, {share:.3%} of the model"),
        ("learnt from", ", ".join(f"{name} {count:,}" for name, count in learnt if count)),
        ("steps", f"{summary['steps']:,} of {summary['of_steps']:,}{kept}"),
        ("speed", f"{summary['tokens_per_second']:,.0f} tokens/s"),
        ("memory", ", ".join(f"{name} {size[name] / 1e6:,.3g} MB" for name in ("parameters", "trained", "optimizer"))),
        *([("model", f"{result.directory}/model")] if summary["settings"]["keep_model"] else []),
    ]


def tables(result: Result) -> list[Table]:
    """The loss of held-out instructions, before and after."""
    rows: list[list[Cell]] = []
    for row in result.tables[EVALUATION]:
        if row["part"] == "held_out" and row["step"] == result.summary["kept"]:
            rows.append([row["category"], row["instructions"], row["nll"] - row["change"], row["nll"], row["change"],
                         interval(row["ci_low"], row["ci_high"])])  # fmt: skip
    heads = ("category", "instructions", "before", "after", "change", "95% interval")
    return [Table(heads, rows, "loss of held-out instructions, nats per token", "categories")] if rows else []


def warnings(result: Result) -> list[str]:
    """What makes it weak."""
    told = []
    if not result.summary["held_out"]:
        told.append("Some held-out instructions chose the units, which flatters these.")
    if few := [row for row in result.tables[EVALUATION] if row["part"] == "held_out" and row["instructions"] < 5]:
        least = number(min(row["instructions"] for row in few))
        told.append(f"Few held-out instructions are evaluated: {least} of a category.")
    return told


def compared(result: Result) -> list[Table]:
    """What trainings come to, beside each other."""
    rows: list[list[Cell]] = [
        [row["training"], row["parameters"], row["learning_rate"], row["gain"],
         interval(row["gain_low"], row["gain_high"]), row["forgetting"],
         interval(row["forgetting_low"], row["forgetting_high"]), row["share"]]
        for row in result.tables[TUNINGS]
    ]  # fmt: skip
    heads = ("trained", "parameters", "rate", "gain", "95% interval", "forgetting", "95% interval", "share of all")
    found = [Table(heads, rows, "held-out instructions, nats per token", "trainings")]
    units: list[list[Cell]] = [
        [row["training"], row["units"], row["percentile"], interval(row["random_low"], row["random_high"]),
         row["p_value"]]
        for row in result.tables[TUNED_UNITS]
    ]  # fmt: skip
    changed = ("trained", "units of", "percentile of change", "95% of random sets", "p")
    return [*found, Table(changed, units, "units that changed", "sets")] if units else found


def compared_facts(result: Result) -> list[tuple[str, str]]:
    """What was compared."""
    summary = result.summary
    learnt = [name for name, count in zip(summary["categories"], summary["learnt"], strict=True) if count]
    return [("trained", f"below {summary['trained']}, on {', '.join(learnt)}"), ("of", summary["run"])]


def compared_warnings(result: Result) -> list[str]:
    """What makes it weak."""
    told = [] if result.summary["held_out"] else ["Some held-out instructions chose the units, which flatters these."]
    if few := [row for row in result.tables[TUNINGS] if row["seeds"] < 3]:
        told.append(f"{len(few)} trainings have fewer than 3 seeds: their intervals hardly know of these.")
    return told
