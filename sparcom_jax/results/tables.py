"""The tables that results consist of, kind by kind: what every column is and means. docs/tables.md says it in prose."""

from sparcom_jax.results.ablation import ABLATION_TABLES
from sparcom_jax.results.answers import ANSWER_TABLES
from sparcom_jax.results.columns import Table
from sparcom_jax.results.columns import category as _category
from sparcom_jax.results.columns import number as _number
from sparcom_jax.results.columns import table as _table
from sparcom_jax.results.columns import text as _text
from sparcom_jax.results.steering import STEERING_TABLES
from sparcom_jax.results.tuning import TUNING_TABLES
from sparcom_jax.results.tunings import TUNINGS_TABLES

_GROUP = _text("group", "kind of units")
_CATEGORY = _category("category", "the category")
_ITS_CATEGORY = _category("category", "its category")
_ID = _text("id", "id of the instruction")
_LAYER = _number("layer", "layer number")
_RELATIVE_DEPTH = _number("relative_depth", "its relative depth")
_CI_LOW = _number("ci_low", "lower end of its interval")
_CI_HIGH = _number("ci_high", "its upper end")

_NO_INTERVAL = "empty with fewer than 5 instructions"

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
    _number(
        "chance_popularity",
        "the same of sets that are drawn by popularity: with the same size in every layer, and every unit in as many "
        "of them",
    ),
    _number("ci_low", f"lower end of the bootstrap interval of `value`; {_NO_INTERVAL}"),
    _CI_HIGH,
    _number("pairs", "number of pairs of instructions"),
)

CONTRASTS = _table(
    "contrasts.csv",
    _GROUP,
    _text("measure", "`jaccard` or `overlap_coefficient`"),
    _category("category_a", "first category"),
    _category("category_b", "second category"),
    _number(
        "contrast",
        "mean of the two overlaps within these categories, less the overlap between them; empty where one has fewer "
        "than two instructions",
    ),
    _number("ci_low", f"lower end of its bootstrap interval; {_NO_INTERVAL}"),
    _CI_HIGH,
    _number("null_mean", "its mean over labels of the two shuffled within strata of token_count"),
    _number("p_value", "share of these shuffles with a contrast at least as high, one-sided; empty where untestable"),
    _number("q_value", "of `p_value`, over all pairs of categories"),
    _number("smallest_p", "the least p-value that these shuffles can give; 1 where untestable"),
    _number("instructions", "of both categories"),
    _number("comparable", "those of them in strata that hold both categories; 0 makes the pair untestable"),
)

UNIQUENESS = _table(
    "uniqueness.csv",
    _GROUP,
    _CATEGORY,
    _number("instructions", "how many it has: with more, cores are steadier and uniqueness is lower"),
    _number("core_units", "units in its core"),
    _number("unique_units", "those of them in no other category's core"),
    _number("uniqueness", "unique_units / core_units; empty where the core is, or where there is one category"),
    _number("ci_low", f"lower end of its interval, by halves of the instructions; {_NO_INTERVAL}"),
    _CI_HIGH,
    _number("null_mean", "mean of `uniqueness` over labels shuffled within strata of token_count"),
    _number("null_unique_units", "mean of `unique_units` over these shuffles"),
    _number("p_value", "share of them with as many unique units or more, one-sided"),
    _number("q_value", "of `p_value`"),
    _number("general_share", "share of its core units that are in the cores of all categories"),
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
    _number("few_tokens", "1 where T is below 20, so that frequencies take few values"),
    _number("odd_size", "1 where |S(i)| is more than twice the median, or less than half"),
    _text("duplicate_of", "id of an earlier instruction with the same text, or nearly; empty where there is none"),
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

ROUTING = _table(
    "routing.csv",
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("expert", "number of the expert"),
    _number("share", "share of the routing that it receives, 0 to 1, mean over the category's instructions"),
    _number("share_elsewhere", "mean of this over the other categories"),
)

ROUTING_DISTANCE = _table(
    "routing_distance.csv",
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("distance", "total variation of the two shares of `routing.csv`, 0 to 1: half the summed differences"),
    _number("null_mean", "its mean over labels shuffled within strata of token_count"),
    _number("p_value", "share of these shuffles with a distance at least as large, one-sided"),
    _number("q_value", "of `p_value`, over all categories and layers"),
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
    _number(
        "chance_popularity",
        "the same of sets that are drawn by popularity: every unit in as many sets of either model besides",
    ),
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
    _number("chance_popularity", "mean chance level of sets drawn by popularity"),
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

CHANGED_UNITS = _table(
    "changed_units.csv",
    _GROUP,
    _CATEGORY,
    _text("unit", "its name, `L12.N340`, `L7.S.N12`, `L7.E5.N12` or `L7.E5`"),
    _LAYER,
    _number("share_base", "share of the category's instructions whose S(i) holds it in the base model"),
    _number("share_tuned", "the same in the tuned model"),
    _number("change", "the second less the first"),
    _number(
        "p_value",
        "two-sided, Fisher's exact test, as if the models had read different instructions, and so conservative",
    ),
    _number("q_value", "of `p_value`, over all units and categories of the group"),
    _text("core", "`gained`, `lost` or `retained` where it is core to the category in either model; else empty"),
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
    _number("null_pearson", "its median where labels are shuffled within strata of length, for both models alike"),
    _number("p_pearson", "share of these shuffles with a correlation at least as high, one-sided"),
    _number("spearman", "Spearman correlation"),
    _number("null_spearman", "its median over the shuffles"),
    _number("p_spearman", "its p-value"),
    _number("shuffles", "how many; the least p-value that they can give is 1 / (1 + shuffles)"),
)

# Of sweep

SWEEP = _table(
    "sweep.csv",
    _GROUP,
    _number("value", "epsilon, or with the selector `threshold` the threshold"),
    _CATEGORY,
    _number("mean_set_size", "mean |S(i)| over the category's instructions"),
    _number("set_share", "the same by the number of units"),
    _number("core_units", "units in its core"),
    _number("unique_units", "those of them in no other category's core"),
    _number("uniqueness", "unique_units / core_units; empty where the core is, or where there is one category"),
    _number("general_share", "share of its core units that are in the cores of all categories"),
)

# Of agree

AGREEMENT = _table(
    "agreement.csv",
    _text("target", "`neurons` or `experts`"),
    _text("selector_a", "first selector"),
    _text("selector_b", "second selector"),
    _CATEGORY,
    _number("units_a", "its units by the first"),
    _number("units_b", "its units by the second"),
    _number("common", "units by both"),
    _number("jaccard", "common / units by either"),
    _number("chance", "the same of random sets with as many units in every layer"),
    _number("spearman", "Spearman correlation of the two scores, over all units"),
)

# Of align

ALIGNMENT = _table(
    "alignment.csv",
    _GROUP,
    _CATEGORY,
    _LAYER,
    _RELATIVE_DEPTH,
    _number("units", "units of the layer"),
    _number("spearman", "Spearman correlation over them of mean frequency with mean attribution"),
    _number("spearman_over_others", "the same of the means less the mean of the other categories' means"),
    _number("k", "how many units at the top are compared"),
    _number("overlap", "share of the k highest by frequency that are among the k highest by attribution"),
    _number("overlap_over_others", "the same by these differences"),
    _number("chance", "what either overlap is by chance, k / units"),
)

# Of explore

CARD_UNITS = _table(
    "cards.csv",
    _text("unit", "its name, `L12.N340`, `L7.S.N12`, `L7.E5.N12` or `L7.E5`"),
    _GROUP,
    _LAYER,
    _CATEGORY,
    _number("rank", "its rank among the units of the category, from 1"),
    _number("score", "its score for the category"),
    _text("raises", "tokens whose logits its output raises most; empty of experts"),
    _text("lowers", "tokens whose logits it lowers most"),
    shown=False,
)
CARD_CATEGORIES = _table(
    "card_frequency.csv",
    _text("unit", "its name"),
    _CATEGORY,
    _number("frequency", "mean of p over the category's instructions"),
    _number("ci_low", "lower end of its interval"),
    _number("ci_high", "upper end"),
    _number("frequency_other", "mean of p in the other run; empty where none was given"),
    _number("attribution", "mean attribution, nats per token; empty where the run has none by gradients"),
    _number("effect", "what the category's responses lose with the unit off; empty where it was not measured"),
    shown=False,
)

TABLES: dict[str, tuple[Table, ...]] = {
    "evaluate": (
        OVERLAP,
        CONTRASTS,
        UNIQUENESS,
        COMBINATIONS,
        DEPTH,
        ROUTING,
        ROUTING_DISTANCE,
        INSTRUCTIONS,
        CORE_UNITS,
    ),
    "compare": (
        INSTRUCTION_OVERLAP,
        CATEGORY_OVERLAP,
        UNITS,
        CHANGED_UNITS,
        DEPTH_SHIFT,
        FREQUENCY_DRIFT,
        ROUTING_DRIFT,
        DEPTH_PROFILE,
        MATRIX_CORRELATION,
    ),
    "sweep": (SWEEP,),
    "agree": (AGREEMENT,),
    "ablate": ABLATION_TABLES,
    "answer": ANSWER_TABLES,
    "steer": STEERING_TABLES,
    "align": (ALIGNMENT,),
    "explore": (CARD_UNITS, CARD_CATEGORIES),
    "finetune": TUNING_TABLES,
    "tunings": TUNINGS_TABLES,
}
"""By kind of results, in the order of the report: its tables, in order."""
