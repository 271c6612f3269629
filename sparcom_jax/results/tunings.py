"""The tables of trainings that are compared with each other."""

from sparcom_jax.results.columns import category, number, table, text

_TRAINING = text("training", "what was trained, as `--train` names it")
_OVER = "bootstrap interval over instructions and seeds; empty with fewer than 5 of a category"
TUNINGS = table(
    "tunings.csv",
    _TRAINING,
    number("parameters", "how many parameters that is"),
    number("learning_rate", "the one that was taken, by the validation loss of the first seed"),
    number("seeds", "how many trainings there are"),
    number("gain", "how much lower the loss of held-out instructions of the learnt categories is, in nats per token"),
    number("gain_low", f"lower end of its {_OVER}"),
    number("gain_high", "its upper end"),
    number("forgetting", "how much higher that of the other categories is, as a mean over these"),
    number("forgetting_low", f"lower end of its {_OVER}"),
    number("forgetting_high", "its upper end"),
    number("share", "`gain` over that of the training of all; empty unless the interval of that is above 0"),
    number("share_low", f"lower end of its {_OVER}"),
    number("share_high", "its upper end"),
    number("gain_per_million", "`gain` over millions of trained parameters"),
)

TUNING_CHANGES = table(
    "tuning_changes.csv",
    _TRAINING,
    category("category", "the category"),
    number("learnt", "1 where it is learnt from, else 0"),
    number("instructions", "held-out instructions of it"),
    number("before", "mean negative log likelihood of their responses by the model as it was, in nats per token"),
    number("change", "what training added to it, as a mean over the seeds"),
    number("ci_low", f"lower end of its {_OVER}"),
    number("ci_high", "its upper end"),
)

TUNED_UNITS = table(
    "tuned_units.csv",
    _TRAINING,
    text("units", "the training whose units these are"),
    number("trained", "1 where they are what was trained, else 0"),
    number("count", "how many they are"),
    number("drift", "mean over them of how much tuning changed their frequency p in the learnt categories"),
    number(
        "percentile",
        "mean over them of the share of their layer's units that changed less; chance is what random sets have",
    ),
    number("random_low", "lower end of what 95% of random sets of equal layer and frequency have"),
    number("random_high", "its upper end"),
    number("p_value", "two-sided, from where theirs stands among that of these sets"),
)

TUNINGS_TABLES = (TUNINGS, TUNING_CHANGES, TUNED_UNITS)
"""All of them, in order."""
