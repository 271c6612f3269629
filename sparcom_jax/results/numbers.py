"""Numbers as people read them, on the page and on a terminal."""

import math
from collections.abc import Iterable

Number = int | float

UNDEFINED = "\N{EN DASH}"


class Digits(str):
    """Text of numbers, which tables align to the right."""


def number(value: Number | None) -> Digits:
    """A number with 3 significant digits; whole numbers in full.

    Args:
      value: None where it is not defined.

    Returns:
      For example `0.0123` or `12,345`.
    """
    if value is None:
        return Digits(UNDEFINED)
    if isinstance(value, int) or abs(value) >= 999.5:
        return Digits(f"{value:,.0f}")
    if value == 0:
        return Digits("0")
    return Digits(f"{value:.2e}" if abs(value) < 1e-4 else f"{value:#.3g}".rstrip("."))


def interval(low: Number | None, high: Number | None) -> Digits:
    """An interval, `[low, high]`."""
    return Digits(UNDEFINED if low is None or high is None else f"[{number(low)}, {number(high)}]")


def mean(values: Iterable[Number | None]) -> Number | None:
    """Mean of the values that are defined; None where there are none."""
    defined = [value for value in values if value is not None]
    return math.fsum(defined) / len(defined) if defined else None
