"""The tables that results consist of, kind by kind: what every column is and means. docs/tables.md says it in prose."""

from sparcom_jax.results.ablation import ABLATION_TABLES
from sparcom_jax.results.columns import Table
from sparcom_jax.results.columns import category as _category
from sparcom_jax.results.columns import number as _number
from sparcom_jax.results.columns import table as _table
from sparcom_jax.results.columns import text as _text

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

TABLES: dict[str, tuple[Table, ...]] = {
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
    "ablate": ABLATION_TABLES,
}
"""By kind of results, in the order of the report: its tables, in order."""
