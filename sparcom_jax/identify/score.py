"""Scoring kernels: where the counts of an instruction are cut, and which units lie above.

They run on the host, one instruction after another: what they read comes from storage, and a row of counts fits the
cache, where NumPy compares ten units a nanosecond. The same in compiled passes over many rows, as XLA makes them, takes
five times as long on a CPU, and on an accelerator the way there would be the longest part.

An instruction's frequencies take at most T + 1 values, so its cut is found by bisection over the counts: every step is
one comparison and one sum over the units, with no sort. Counts instead of frequencies are compared, because T is the
same for all units of an instruction; this keeps every comparison exact.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt16


def cut_count(counts: Sequence[UInt16[np.ndarray, "_"]], wanted: int) -> int:
    """The largest count that at least `wanted` units reach.

    Args:
      counts: counts of an instruction, of one or several groups of units that are cut together.
      wanted: k, how many units the cut must leave; at most all of them.
    """
    low, high = 0, max(int(group.max()) for group in counts)
    while low < high:  # `low` is reached by enough units, `high + 1` is not
        middle = (low + high + 1) // 2
        if sum(np.count_nonzero(at_least(group, middle)) for group in counts) >= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def at_least(counts: UInt16[np.ndarray, "U"], least: int) -> Bool[np.ndarray, "U"]:
    """Units whose count reaches `least`."""
    if least > np.iinfo(np.uint16).max:
        return np.zeros(counts.shape, bool)
    return counts >= np.uint16(least)  # a plain int would be compared in a wider type, which is slower


def exactly(
    counts: UInt16[np.ndarray, "U"], means: Float[np.ndarray, "U"] | None, cut: int, wanted: int
) -> Bool[np.ndarray, "U"]:
    """Units above the cut, and of those at the cut as many as are still wanted.

    Args:
      counts: counts of the units.
      means: mean activations, by which ties are broken, highest first; None where they are not stored. Then, and where
        they are equal, the first units are taken.
      cut: from `cut_count`.
      wanted: k.
    """
    mask = at_least(counts, cut + 1)
    tied = np.flatnonzero(counts == np.uint16(cut))
    if means is not None:
        tied = tied[np.argsort(-means[tied], kind="stable")]
    mask[tied[: wanted - np.count_nonzero(mask)]] = True
    return mask
