"""The tables of `finetune`."""

from sparcom_jax.results.columns import category, number, table, text

STEPS = table(
    "steps.csv",
    number("step", "number of the step, from 1"),
    number("tokens", "tokens of responses that it learnt from"),
    number("loss", "mean loss of these before the step, in nats per token"),
    number("gradient_norm", "norm of the gradient, before it was clipped"),
    number("learning_rate", "of the step"),
)

EVALUATION = table(
    "evaluation.csv",
    number("step", "after how many steps; 0 is the model as it was"),
    text("part", "`held_out`, or `validation`: set aside from the instructions that are learnt from"),
    category("category", "the category"),
    number("instructions", "how many of it are evaluated"),
    number("nll", "mean over them of the negative log likelihood of the response, in nats per token"),
    number("change", "`nll` less that of step 0"),
    number("ci_low", "lower end of its bootstrap interval over instructions; empty with fewer than 5, and for step 0"),
    number("ci_high", "its upper end"),
)

EVALUATION_ROWS = table(
    "evaluation_rows.csv",
    text("part", "as in evaluation.csv"),
    text("id", "id of the instruction"),
    category("category", "its category"),
    number("before", "negative log likelihood of its response in nats per token, by the model as it was"),
    number("after", "the same, by the model that is kept, with its parameters rounded as they are stored"),
    shown=False,
)

TUNING_TABLES = (STEPS, EVALUATION, EVALUATION_ROWS)
"""All of them, in order."""
