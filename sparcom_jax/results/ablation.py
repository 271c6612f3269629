"""The tables of an ablation: what every column is and means."""

from sparcom_jax.results.columns import Column, category, number, table, text

_CATEGORY = category("category", "the category")
_ITS_CATEGORY = category("category", "its category")
_ID = text("id", "id of the instruction")
_CI_HIGH = number("ci_high", "its upper end")
_TARGET = text("target", "`neurons`, the units of all groups of neurons together, or `experts`, the experts")
_OFF = category("category_off", "the category whose units are off, or with `keep` the only ones that are not")
_MEASURED = category("category_measured", "the category whose responses are scored")
_UNITS_OFF = number("units_off", "how many units are off")
_SCORED = number("instructions", "how many of the measured category are scored")
_HELD_OUT = number("held_out", "1 where none of the scored instructions chose the units, else 0")
_DELTA = number("delta", "`nll` less that of the untouched model")

ABLATION = table(
    "ablation.csv",
    _TARGET,
    text(
        "kind",
        "the selector of the units (`core` for the cores of a set), or a control: `random`, as many units drawn from "
        "the same layer and group, or `random_matched`, from the same decile of frequency within the layer besides",
    ),
    number("draw", "number of the random set, from 1; empty for the category's own units"),
    _OFF,
    _MEASURED,
    _UNITS_OFF,
    _SCORED,
    _HELD_OUT,
    number("nll", "mean over them of the mean negative log likelihood of the response's tokens, in nats per token"),
    _DELTA,
)


def _of_effect(suffix: str, control: str) -> tuple[Column, ...]:
    return (
        number(f"{suffix}_mean", f"mean of `delta` over the draws of `{control}`; empty without that control"),
        number(f"{suffix}_low", "the least of them"),
        number(f"{suffix}_high", "the greatest"),
        number(f"p_{suffix}", "two-sided p-value of `delta` among these draws"),
        number(f"q_{suffix}", "q-value of it, over all cells of the target"),
        number(f"smallest_p_{suffix}", "the least p-value that so many draws can give, 2 / (1 + draws)"),
    )


EFFECTS = table(
    "effects.csv",
    _TARGET,
    _OFF,
    _MEASURED,
    _UNITS_OFF,
    _SCORED,
    _HELD_OUT,
    number("delta", "mean change of negative log likelihood with the units off, in nats per token"),
    number("ci_low", "lower end of its bootstrap interval over instructions"),
    _CI_HIGH,
    *_of_effect("random", "random"),
    *_of_effect("matched", "random_matched"),
)


def _of_selectivity(suffix: str, control: str) -> tuple[Column, ...]:
    return (
        number(f"own_{suffix}", f"mean of `own` over the draws of `{control}`; empty without that control"),
        number(f"selectivity_{suffix}", "mean of `selectivity` over them"),
        number(f"p_{suffix}", "two-sided p-value of `selectivity` among them"),
        number(f"q_{suffix}", "q-value of it, over the categories of the target"),
    )


_OF_UNITS = (
    _TARGET,
    _CATEGORY,
    _UNITS_OFF,
    number("instructions", "how many of the category are scored"),
    _HELD_OUT,
    number("own", "effect on the category itself, as `delta` of effects.csv"),
    number("others", "mean effect on the other categories; empty where there is no other"),
    number("selectivity", "`own` less `others`"),
    number("ci_low", "lower end of the bootstrap interval of `selectivity` over instructions"),
    _CI_HIGH,
    number("own_per_unit", "`own` / `units_off`"),
    *_of_selectivity("random", "random"),
    *_of_selectivity("matched", "random_matched"),
)

SELECTIVITY = table("selectivity.csv", *_OF_UNITS)

DOSES = table("doses.csv", *_OF_UNITS)


def _of_sufficiency(suffix: str, control: str) -> tuple[Column, ...]:
    return (
        number(f"recovered_{suffix}", f"mean of `recovered` over the draws of `{control}`, as many random units kept"),
        number(f"p_{suffix}", "two-sided p-value of `nll_kept`, and so of `recovered`, among them"),
        number(f"q_{suffix}", "q-value of it, over all cells of the target and the number kept"),
    )


SUFFICIENCY = table(
    "sufficiency.csv",
    _TARGET,
    category("category_kept", "the category whose units are kept, while all others of the target are off"),
    _MEASURED,
    number("units_kept", "how many units are kept"),
    _SCORED,
    _HELD_OUT,
    number("nll_untouched", "negative log likelihood of the untouched model, as in ablation.csv"),
    number("nll_all_off", "the same with all units of the target off"),
    number("nll_kept", "the same with all off but those that are kept"),
    number("recovered", "(nll_all_off - nll_kept) / (nll_all_off - nll_untouched); empty where nothing is lost"),
    number("ci_low", "lower end of the bootstrap interval of `recovered` over instructions"),
    _CI_HIGH,
    *_of_sufficiency("random", "random"),
    *_of_sufficiency("matched", "random_matched"),
)

INSTRUCTION_EFFECTS = table(
    "instruction_effects.csv",
    _TARGET,
    _OFF,
    _ID,
    _ITS_CATEGORY,
    number("tokens", "tokens of its response that are scored"),
    _HELD_OUT,
    number("nll", "mean negative log likelihood of these tokens with the units off, in nats per token"),
    _DELTA,
    shown=False,
)

BASELINE = table(
    "baseline.csv",
    _CATEGORY,
    number("instructions", "how many are scored"),
    _HELD_OUT,
    number("tokens", "tokens of their responses, the end-of-sequence token included"),
    number("nll", "mean negative log likelihood, as in ablation.csv"),
)

ABLATION_TABLES = (ABLATION, EFFECTS, SELECTIVITY, DOSES, SUFFICIENCY, INSTRUCTION_EFFECTS, BASELINE)
"""All, in the order of the report."""
