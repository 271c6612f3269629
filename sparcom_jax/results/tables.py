"""The tables that results consist of, kind by kind: what every column is and means. docs/tables.md says it in prose."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its name.
      holds: a `category` of the results, other `text`, or a `number`, which is empty where it is not defined.
      meaning: what it is, in one line.
    """

    name: str
    holds: Literal["category", "text", "number"]
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table of a kind of results.

    Attributes:
      name: of its file.
      columns: its columns, in order.
      shown: whether the report shows it.
    """

    name: str
    columns: tuple[Column, ...]
    shown: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def record(self, row: Sequence[Any]) -> dict[str, Any]:
        """The values of a row, by column."""
        return dict(zip(self.names, row, strict=True))


def _table(name: str, *columns: Column, shown: bool = True) -> Table:
    return Table(name, columns, shown)


def _category(name: str, meaning: str) -> Column:
    return Column(name, "category", meaning)


def _text(name: str, meaning: str) -> Column:
    return Column(name, "text", meaning)


def _number(name: str, meaning: str) -> Column:
    return Column(name, "number", meaning)


_GROUP = _text("group", "kind of units")
_CATEGORY = _category("category", "the category")
_ITS_CATEGORY = _category("category", "its category")
_ID = _text("id", "id of the instruction")
_LAYER = _number("layer", "layer number")
_RELATIVE_DEPTH = _number("relative_depth", "its relative depth")
_CI_LOW = _number("ci_low", "lower end of its interval")
_CI_HIGH = _number("ci_high", "its upper end")

# Of evaluate

OVERLAP = _table(
    "overlap.csv",
    _GROUP,
    _text("measure", "`jaccard`, |A and B| / |A or B|, or `overlap_coefficient`, |A and B| / min(|A|, |B|)"),
    _category("category_a", "first category"),
    _category("category_b", "second category"),
    _number("value", "mean over all pairs of two different instructions; empty for a category with fewer than two"),
    _number(
        "chance",
        "mean chance level: intersections as large as expected of random sets with the same size in every "
        "layer (hypergeometric)",
    ),
    _number("null_mean", "mean of `value` over labels shuffled freely"),
    _number("p_value", "of `value` among those shuffles"),
    _number("q_value", "of `p_value`"),
    _number("null_mean_length", "mean of `value` over labels shuffled within strata of token_count"),
    _number("p_value_length", "of `value` among those shuffles: the control for length"),
    _number("q_value_length", "of `p_value_length`"),
    _number("ci_low", "lower end of the interval of `value`"),
    _CI_HIGH,
    _number("pairs", "number of pairs of instructions"),
)

UNIQUENESS = _table(
    "uniqueness.csv",
    _GROUP,
    _CATEGORY,
    _number("core_units", "units in its core"),
    _number("unique_units", "those of them in no other category's core"),
    _number("uniqueness", "unique_units / core_units; empty where the core is"),
    _number("null_mean_length", "mean of `uniqueness` over labels shuffled within strata of token_count"),
    _number("p_value_length", "of `uniqueness` among those shuffles"),
    _number("q_value_length", "of `p_value_length`"),
    _number("ci_low", "lower end of the interval of `uniqueness`"),
    _CI_HIGH,
)

COMBINATIONS = _table(
    "combinations.csv",
    _GROUP,
    _text("categories", "the categories, joined by `+`"),
    _number("category_count", "how many they are"),
    _number("units", "units in the cores of exactly these categories"),
)

DEPTH = _table(
    "depth.csv",
    _GROUP,
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("core_units", "core units in the layer"),
    _number("core_share", "their share of the layer's units"),
    _number("mean_set_size", "mean over the category's instructions of the units of S(i) in the layer"),
)

INSTRUCTIONS = _table(
    "instructions.csv",
    _GROUP,
    _ID,
    _ITS_CATEGORY,
    _number("token_count", "T, its counted tokens"),
    _number("size", "|S(i)|"),
    _number("cut", "where S(i) was cut: a frequency, or with the selector `excess` a z"),
    shown=False,
)

CORE_UNITS = _table(
    "core_units.csv",
    _GROUP,
    _LAYER,
    _number("expert", "number of the expert; empty where the group has none"),
    _number("neuron", "number of the neuron; empty for experts"),
    _CATEGORY,
    _number("membership_share", "share of the category's instructions that hold the unit"),
    shown=False,
)

# Of compare

INSTRUCTION_OVERLAP = _table(
    "instruction_overlap.csv",
    _GROUP,
    _ID,
    _ITS_CATEGORY,
    _number("token_count", "its counted tokens in the base run"),
    _number("size_base", "|S(i)| of the base model"),
    _number("size_tuned", "|S(i)| of the tuned model"),
    _number("common", "units in both"),
    _number("jaccard", "common / units in either"),
    _number("chance", "the same with the intersection expected of random sets with the same size in every layer"),
    shown=False,
)

CATEGORY_OVERLAP = _table(
    "category_overlap.csv",
    _GROUP,
    _CATEGORY,
    _number("instructions", "how many it has"),
    _number("jaccard", "mean over them"),
    _CI_LOW,
    _CI_HIGH,
    _number("chance", "mean chance level"),
)

UNITS = _table(
    "units.csv",
    _GROUP,
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("base", "core units of the base model"),
    _number("tuned", "core units of the tuned model"),
    _number("retained", "units in both"),
    _number("gained", "only in the tuned model's"),
    _number("lost", "only in the base model's"),
)

DEPTH_SHIFT = _table(
    "depth_shift.csv",
    _GROUP,
    _CATEGORY,
    _text("quantity", "`core_units`, the core units per layer, or `set_size`, the mean |S(i)| per layer"),
    _number("mean_depth_base", "mean relative depth in the base model"),
    _number("mean_depth_tuned", "mean relative depth in the tuned model"),
    _number("wasserstein", "Wasserstein-1 distance over relative depth"),
    _number("jensen_shannon", "Jensen-Shannon divergence in bits, 0 to 1"),
)

FREQUENCY_DRIFT = _table(
    "frequency_drift.csv",
    _GROUP,
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number(
        "mean_absolute_change", "mean of |p_tuned - p_base| over the layer's neurons and the category's instructions"
    ),
    _CI_LOW,
    _CI_HIGH,
    _number("mean_change", "mean of p_tuned - p_base"),
)

ROUTING_DRIFT = _table(
    "routing_drift.csv",
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("total_variation", "mean over the category's instructions of half the summed |f_tuned - f_base|, 0 to 1"),
    _CI_LOW,
    _CI_HIGH,
    _number("total_variation_of_mean", "the same distance between the category's mean f of either model"),
)

DEPTH_PROFILE = _table(
    "depth_profile.csv",
    _text("model", "`base` or `tuned`"),
    _GROUP,
    _CATEGORY,
    _number("relative_depth", "the point"),
    _number("core_share", "share of a layer's units that are core"),
    _number("set_share", "share of a layer's units in S(i), on average over the category's instructions"),
)

MATRIX_CORRELATION = _table(
    "matrix_correlation.csv",
    _text("group_base", "kind of units in the base model"),
    _text("group_tuned", "kind of units in the tuned model"),
    _text("measure", "`jaccard` or `overlap_coefficient`"),
    _text("cells", "`all` distinct cells, or only those `between` two categories"),
    _number("cell_count", "how many these are"),
    _number("pearson", "Pearson correlation; empty for fewer than three cells or a table that is constant"),
    _number("p_pearson", "share of relabellings with a correlation at least as high"),
    _number("spearman", "Spearman correlation"),
    _number("p_spearman", "its p-value"),
    _number("relabellings", "how many were tried"),
    _number("exact", "1 where these were all C! of them, else 0 and p = (1 + #) / (1 + relabellings)"),
)

# Of ablate

_TARGET = _text("target", "`neurons`, the units of all groups of neurons together, or `experts`, the experts")
_OFF = _category("category_off", "the category whose units are switched off")
_MEASURED = _category("category_measured", "the category whose responses are scored")
_UNITS_OFF = _number("units_off", "how many units are off")
_SCORED = _number("instructions", "how many of the measured category are scored")
_HELD_OUT = _number("held_out", "1 where none of the scored instructions chose the units, else 0")
_DELTA = _number("delta", "`nll` less that of the untouched model")

ABLATION = _table(
    "ablation.csv",
    _TARGET,
    _text(
        "kind",
        "the selector of the units (`core` for the cores of a set), or a control: `random`, as many units drawn from "
        "the same layer and group, or `random_matched`, from the same decile of frequency within the layer besides",
    ),
    _number("draw", "number of the random set, from 1; empty for the category's own units"),
    _OFF,
    _MEASURED,
    _UNITS_OFF,
    _SCORED,
    _HELD_OUT,
    _number("nll", "mean over them of the mean negative log likelihood of the response's tokens, in nats per token"),
    _DELTA,
)


def _of_effect(suffix: str, control: str) -> tuple[Column, ...]:
    return (
        _number(f"{suffix}_mean", f"mean of `delta` over the draws of `{control}`; empty without that control"),
        _number(f"{suffix}_low", "the least of them"),
        _number(f"{suffix}_high", "the greatest"),
        _number(f"p_{suffix}", "two-sided p-value of `delta` among these draws"),
        _number(f"q_{suffix}", "q-value of it, over all cells of the target"),
        _number(f"smallest_p_{suffix}", "the least p-value that so many draws can give, 2 / (1 + draws)"),
    )


EFFECTS = _table(
    "effects.csv",
    _TARGET,
    _OFF,
    _MEASURED,
    _UNITS_OFF,
    _SCORED,
    _HELD_OUT,
    _number("delta", "mean change of negative log likelihood with the units off, in nats per token"),
    _number("ci_low", "lower end of its bootstrap interval over instructions"),
    _CI_HIGH,
    *_of_effect("random", "random"),
    *_of_effect("matched", "random_matched"),
)


def _of_selectivity(suffix: str, control: str) -> tuple[Column, ...]:
    return (
        _number(f"own_{suffix}", f"mean of `own` over the draws of `{control}`; empty without that control"),
        _number(f"selectivity_{suffix}", "mean of `selectivity` over them"),
        _number(f"p_{suffix}", "two-sided p-value of `selectivity` among them"),
        _number(f"q_{suffix}", "q-value of it, over the categories of the target"),
    )


_OF_UNITS = (
    _TARGET,
    _CATEGORY,
    _UNITS_OFF,
    _number("instructions", "how many of the category are scored"),
    _HELD_OUT,
    _number("own", "effect on the category itself, as `delta` of effects.csv"),
    _number("others", "mean effect on the other categories; empty where there is no other"),
    _number("selectivity", "`own` less `others`"),
    _number("ci_low", "lower end of the bootstrap interval of `selectivity` over instructions"),
    _CI_HIGH,
    _number("own_per_unit", "`own` / `units_off`"),
    *_of_selectivity("random", "random"),
    *_of_selectivity("matched", "random_matched"),
)

SELECTIVITY = _table("selectivity.csv", *_OF_UNITS)

DOSES = _table("doses.csv", *_OF_UNITS)

INSTRUCTION_EFFECTS = _table(
    "instruction_effects.csv",
    _TARGET,
    _OFF,
    _ID,
    _ITS_CATEGORY,
    _number("tokens", "tokens of its response that are scored"),
    _HELD_OUT,
    _number("nll", "mean negative log likelihood of these tokens with the units off, in nats per token"),
    _DELTA,
    shown=False,
)

BASELINE = _table(
    "baseline.csv",
    _CATEGORY,
    _number("instructions", "how many are scored"),
    _HELD_OUT,
    _number("tokens", "tokens of their responses, the end-of-sequence token included"),
    _number("nll", "mean negative log likelihood, as in ablation.csv"),
)

TABLES = {
    "evaluate": (OVERLAP, UNIQUENESS, COMBINATIONS, DEPTH, INSTRUCTIONS, CORE_UNITS),
    "compare": (
        INSTRUCTION_OVERLAP,
        CATEGORY_OVERLAP,
        UNITS,
        DEPTH_SHIFT,
        FREQUENCY_DRIFT,
        ROUTING_DRIFT,
        DEPTH_PROFILE,
        MATRIX_CORRELATION,
    ),
    "ablate": (ABLATION, EFFECTS, SELECTIVITY, DOSES, INSTRUCTION_EFFECTS, BASELINE),
}
"""By kind of results, in the order of the report: its tables, in order."""
