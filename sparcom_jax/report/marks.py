"""Marks of significance: which way a value deviates, and only where the draws can give so small a p."""

from sparcom_jax.results.reader import Number

SIGNIFICANT = 0.05
ABOVE, BELOW, UNTESTABLE = "\N{BLACK UP-POINTING TRIANGLE}", "\N{BLACK DOWN-POINTING TRIANGLE}", "?"


def significant(q_value: Number | None) -> bool:
    """Whether a q-value is below the level of all marks."""
    return q_value is not None and q_value < SIGNIFICANT


def meaning(legend: str, smallest_p: Number | None, test: str) -> str:
    """What the marks of a chart say, as plain text; or that there can be none.

    Args:
      legend: what the marks stand for, such as `▲ above the shuffled`.
      smallest_p: the least p-value that the draws can give.
      test: what was tested, and against what.
    """
    if smallest_p is None:
        return "Nothing was tested."
    if smallest_p >= SIGNIFICANT:
        return f"No mark can appear: p is {smallest_p:.2g} at least with so few draws ({test})."
    return f"{legend}: q < {SIGNIFICANT} ({test}; p is {smallest_p:.2g} at least)."
