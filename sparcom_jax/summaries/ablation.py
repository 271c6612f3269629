"""Summary of an ablation, or of a transfer: what switching a category's units off does to it, to others, by chance."""

from collections.abc import Sequence

from sparcom_jax.errors import first_of
from sparcom_jax.results.ablation import BASELINE, SELECTIVITY, SUFFICIENCY
from sparcom_jax.results.numbers import UNDEFINED, Digits, Number, mean, number
from sparcom_jax.results.reader import Result
from sparcom_jax.summaries.summary import Cell, Table

TABLES = (SELECTIVITY, SUFFICIENCY, BASELINE)
"""That are read."""
CONTROLS = {"random": "random", "random_matched": "matched"}
"""By control, what its columns are called in the tables and here."""
FEW_INSTRUCTIONS = 20
SIGNIFICANT = 0.05


def facts(result: Result) -> list[tuple[str, str]]:
    """What was switched off, how, and on what that was measured."""
    summary, settings = result.summary, result.summary["settings"]
    what = summary["units"]["name"] if "units" in summary else f"cores of set {summary['set']['name']}"
    done = "alone are kept" if settings.get("keep") else f"off ({settings['how']})" if "how" in settings else "off"
    baseline = result.tables[BASELINE]
    scored = f"{number(sum(row['instructions'] for row in baseline))} responses"
    if all(row["held_out"] for row in baseline):
        scored += ", held out"
    if smallest := _smallest_p(result):
        scored += f"; {settings['draws']} random draws, smallest p {number(smallest)}"
    return [("units", f"{what} {done}, of {summary['run']}"), ("measured on", scored)]


def tables(result: Result) -> list[Table]:
    """What happens to every category, by the units of both targets."""
    targets = result.summary["targets"]
    keeps = bool(result.summary["settings"].get("keep"))
    controls = [name for name in CONTROLS if all(name in found["controls"] for found in targets.values())]
    rows: list[list[Cell]] = []
    for target in targets:
        of = _kept(result, target, controls) if keeps else _off(result, target, controls)
        rows += [[target, *row] for row in of] if len(targets) > 1 else of
    title = (f"share of the loss by all {' or '.join(targets)} off that a category's own recover" if keeps else
             f"change of the loss (nats per token) with {' or '.join(targets)} off")  # fmt: skip
    heads = ["category", "own", "95% interval", "others", *(CONTROLS[name] for name in controls),
             *(["kept"] if keeps else ["p", "units"])]  # fmt: skip
    return [Table([*(["units of"] if len(targets) > 1 else []), *heads], rows, title,
                  "rows" if len(targets) > 1 else "categories")]  # fmt: skip


def _off(result: Result, target: str, controls: Sequence[str]) -> list[list[Cell]]:
    """Rows with the larger p-value of the controls."""
    rows: list[list[Cell]] = []
    found = result.summary["targets"][target]
    for index, row in enumerate(row for row in result.tables[SELECTIVITY] if row["target"] == target):
        # Samples of a single response are all alike.
        alone = row["instructions"] < 2
        ends = (None if alone else found[end][index][index] for end in ("ci_low", "ci_high"))
        chance = (fixed(row[f"own_{CONTROLS[name]}"]) for name in controls)
        of_controls = (found["controls"][name]["p_value"][index][index] for name in controls)
        p_value = max((value for value in of_controls if value is not None), default=None)
        rows.append([row["category"], fixed(row["own"]), _ends(*ends), fixed(row["others"]), *chance, p_value,
                     row["units_off"]])  # fmt: skip
    return rows


def fixed(value: Number | None) -> Digits:
    """A number with 4 decimals, so that a column of losses is narrow."""
    return Digits(UNDEFINED if value is None else f"{value + 0.0:.4f}".replace("-0.0000", "0.0000"))


def _ends(low: Number | None, high: Number | None) -> Digits:
    return Digits(UNDEFINED if low is None or high is None else f"[{fixed(low)}, {fixed(high)}]")


def _kept(result: Result, target: str, controls: Sequence[str]) -> list[list[Cell]]:
    """The same where the units are kept: what they recover of what is lost with all off."""
    of_target = [row for row in result.tables[SUFFICIENCY] if row["target"] == target]
    rows: list[list[Cell]] = []
    for category in result.summary["categories"]:
        of = [row for row in of_target if row["category_kept"] == category]
        whole = max((row["units_kept"] for row in of), default=0)
        others = mean(row["recovered"] for row in of
                      if row["units_kept"] == whole and row["category_measured"] != category)  # fmt: skip
        for row in of:
            if row["units_kept"] == whole and row["category_measured"] == category:
                chance = (fixed(row[f"recovered_{CONTROLS[name]}"]) for name in controls)
                ends = _ends(row["ci_low"], row["ci_high"])
                rows.append([category, fixed(row["recovered"]), ends, fixed(others), *chance, whole])
                break
    return rows


def warnings(result: Result) -> list[str]:
    """What makes an ablation weak."""
    told = [f"No {name} units: {reason}." for name, reason in result.summary["absent"].items()]
    smallest = _smallest_p(result)
    if smallest and smallest > SIGNIFICANT:
        draws = result.summary["settings"]["draws"]
        told.append(f"{draws} random draws give no p below {number(smallest)}: no effect can be significant.")
    baseline = result.tables[BASELINE]
    if few := [
        f"{row['category']} {row['instructions']}" for row in baseline if row["instructions"] < FEW_INSTRUCTIONS
    ]:
        told.append(f"Few responses are scored ({first_of(few, 3)}; below {FEW_INSTRUCTIONS}).")
    if not all(row["held_out"] for row in baseline):
        told.append("Some of these instructions chose the units, which flatters them.")
    if origin := result.summary.get("units_from"):
        told.append(f"The units were chosen by another run, of {origin['model']['source']}; "
                    f"{origin['instructions_in_common']} instructions in common.")  # fmt: skip
    return told


def _smallest_p(result: Result) -> float | None:
    """The least p-value that the draws can give; None without any control."""
    found = [one["smallest_p"] for target in result.summary["targets"].values() for one in target["controls"].values()]
    return max((one for one in found if one is not None), default=None)
