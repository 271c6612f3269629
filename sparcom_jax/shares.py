"""Shares of whole numbers, decided exactly: a share is the decimal that the user wrote."""

from fractions import Fraction

import numpy as np
from jaxtyping import Int64, Integer


def least_whole(share: float, total: int) -> int:
    """The least whole number n with n >= share * total.

    In floats 0.55 * 200 is above 110, and 0.07 * 100 is above 7. The shortest decimal that reads back as the float is
    what was written, and with it the product is exact.

    Args:
      share: not negative.
      total: how many there are.
    """
    numerator, denominator = Fraction(repr(float(share))).as_integer_ratio()
    return -(-numerator * int(total) // denominator)


def least_whole_of_each(share: float, totals: Integer[np.ndarray, "N"]) -> Int64[np.ndarray, "N"]:
    """The same for several totals; Python's integers do not overflow."""
    distinct, place = np.unique(totals, return_inverse=True)
    return np.asarray([least_whole(share, int(total)) for total in distinct], np.int64)[place]
