"""The tables of `steer`."""

from sparcom_jax.results.columns import category, number, table, text

_KIND = text("kind", "the selector of the units, `random_matched` or `random` as in ablation.csv, or `none`")
_OF = text("category_steered", "the category whose units are scaled; empty where none are")
_ALPHA = number("alpha", "what their output is multiplied by; 1 is the model as it is")

STEERING = table(
    "steering.csv",
    _KIND,
    number("draw", "number of the random set, from 1; empty for others"),
    _OF,
    _ALPHA,
    category("category_measured", "the category that is asked"),
    number("instructions", "how many of it are asked"),
    number("nll", "mean negative log likelihood of the reference responses under it, in nats per token"),
    number("change", "`nll` less that of the model as it is"),
    number("ci_low", "lower end of its bootstrap interval over instructions; empty for the model as it is"),
    number("ci_high", "its upper end"),
    number("tokens", "mean length of the answers, in tokens"),
    number("ended", "share of the answers that end by themselves within the limit"),
    number("repeated", "mean share of an answer's runs of four tokens that it has had before"),
    number("own_nll", "mean negative log likelihood of the answers by the model as it is, in nats per token"),
    number("settled", "how many of the instructions have answers that a machine can settle"),
    number("right", "share of these that are right; empty where there are none"),
)

STEERING_TEXTS = table(
    "steering_texts.csv",
    _KIND,
    _OF,
    _ALPHA,
    text("id", "id of the instruction"),
    category("category", "its category"),
    text("answer", "what the model answered"),
    shown=False,
)

STEERING_TABLES = (STEERING, STEERING_TEXTS)
"""All of them, in order."""
