"""The tables of `answer`."""

from sparcom_jax.results.columns import category, number, table, text

_TARGET = text("target", "`neurons` or `experts`; empty where nothing is off")
_KIND = text("kind", "the selector of the units, `random_matched` or `random` as in ablation.csv, or `none`")
_OFF = text("category_off", "the category whose units are off; empty where none are")

ANSWERS = table(
    "answers.csv",
    _TARGET,
    _KIND,
    number("draw", "number of the random set, from 1; empty for others"),
    _OFF,
    category("category_measured", "the category that is asked"),
    number("instructions", "how many of it are asked"),
    number("right", "how many answers are right"),
    number("accuracy", "right / instructions"),
    number("change", "`accuracy` less that of the untouched model"),
    number("ci_low", "lower end of its bootstrap interval over instructions; empty where nothing is off"),
    number("ci_high", "its upper end"),
)

ANSWER_TEXTS = table(
    "answer_texts.csv",
    _TARGET,
    _KIND,
    _OFF,
    text("id", "id of the instruction"),
    category("category", "its category"),
    number("right", "1 where the answer is right, else 0"),
    text("answer", "what the model answered"),
    shown=False,
)

ANSWER_TABLES = (ANSWERS, ANSWER_TEXTS)
"""All of them, in order."""
