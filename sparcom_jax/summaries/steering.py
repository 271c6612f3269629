"""The summary of a steering."""

from sparcom_jax.results.numbers import mean
from sparcom_jax.results.reader import Result
from sparcom_jax.results.steering import STEERING
from sparcom_jax.summaries.summary import Cell, Table

TABLES = (STEERING,)


def tables(result: Result) -> list[Table]:
    """Of every category whose units were scaled, what became of it and of others."""
    found = []
    for name in result.summary["steered"]:
        rows: list[list[Cell]] = []
        of = [row for row in result.tables[STEERING] if not row["draw"] and row["category_steered"] in ("", name)]
        for alpha in sorted({row["alpha"] for row in of}):
            here = [row for row in of if row["alpha"] == alpha]
            own = [row for row in here if row["category_measured"] == name]
            others = [row for row in here if row["category_measured"] != name]
            rows.append([alpha, mean(row["change"] for row in own), mean(row["change"] for row in others),
                         mean(row["own_nll"] for row in here), mean(row["repeated"] for row in here)])  # fmt: skip
        heads = ("factor", f"loss of {name}", "loss of others", "loss of the answers", "repeated")
        found.append(Table(heads, rows, f"neurons of {name} scaled; losses in nats per token", "factors"))
    return found


def warnings(result: Result) -> list[str]:
    """What makes it weak."""
    told = [] if result.summary["held_out"] else ["These instructions chose the units, which flatters them."]
    least = min(count for count in result.summary["asked"] if count)
    return [*told, f"Few are asked: {least} of a category."] if least < 10 else told
