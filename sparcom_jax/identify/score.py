"""Scoring kernels: where the scores of an instruction are cut, and which units lie above.

They run on the host, one instruction after another: what they read comes from storage, and a row of counts fits the
cache, where NumPy compares ten units a nanosecond. The same in compiled passes over many rows, as XLA makes them, takes
five times as long on a CPU, and on an accelerator the way there would be the longest part.

A score is a count, or an excess over what is expected; either is above 0 for all units that can be chosen, so a unit
that was never active is in no set. Counts instead of frequencies are compared, because T is the same for all units of
an instruction; this keeps every comparison exact.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Shaped, UInt16

ROUNDING = 1e-6
"""An excess below it is none: rates are sums of rounded shares."""

Scores = Shaped[np.ndarray, "_"]
"""Counts in uint16, or excess in float32."""


def excess(counts: UInt16[np.ndarray, "U"], rate: Float64[np.ndarray, "U"], tokens: int) -> Float32[np.ndarray, "U"]:
    """How far units are active beyond their own rate: z = (n - T r) / sqrt(T r (1 - r) + 1/2); 0 where they are not.

    Of counts that are binomial with rate r it is the standardised residual; the half token keeps units that are next to
    never, or always, active from a great z for a single token. A unit that is as active as everywhere has 0, however
    active that is: this is what tells units of an instruction from units that are always on.

    Args:
      counts: n, of an instruction.
      rate: r, the mean frequency of each unit over a run (`mean_rates`).
      tokens: T.
    """
    expected = rate * tokens
    z = (counts - expected) / np.sqrt(expected * (1 - rate) + 0.5)
    return np.where(z > ROUNDING, z, 0.0).astype(np.float32)


def cut_count(counts: Sequence[UInt16[np.ndarray, "_"]], wanted: int) -> int:
    """The largest count that at least `wanted` units reach.

    An instruction's counts take at most T + 1 values, so it is found by bisection over them: every step is one
    comparison and one sum over the units, with no sort.

    Args:
      counts: counts of an instruction, of one or several groups of units that are cut together.
      wanted: k, how many units the cut must leave; at most all of them.
    """
    low, high = 0, max(int(group.max()) for group in counts)
    while low < high:  # `low` is reached by enough units, `high + 1` is not
        middle = (low + high + 1) // 2
        if sum(np.count_nonzero(group >= np.uint16(middle)) for group in counts) >= wanted:
            low = middle
        else:
            high = middle - 1
    return low


def cut_excess(scores: Sequence[Float32[np.ndarray, "_"]], wanted: int) -> float:
    """The largest excess that at least `wanted` units reach; 0 where fewer have any. Arguments as of `cut_count`."""
    above = np.concatenate([group[group > 0] for group in scores])
    if len(above) < wanted:
        return 0.0
    return float(np.partition(above, len(above) - wanted)[len(above) - wanted])


def reaching(scores: Scores, cut: int | float) -> Bool[np.ndarray, "_"]:
    """Units whose score reaches the cut, and is above 0."""
    # A plain number would be compared in a wider type, which is slower.
    return scores >= scores.dtype.type(cut) if cut > 0 else scores > 0


def exceeding(scores: Scores, cut: int | float) -> Bool[np.ndarray, "_"]:
    """Units whose score is above the cut."""
    return scores > scores.dtype.type(cut)


def exactly(
    scores: Scores, means: Float[np.ndarray, "_"] | None, cut: int | float, wanted: int
) -> Bool[np.ndarray, "_"]:
    """Units above the cut, and of those at the cut as many as are still wanted; fewer where fewer are above 0.

    Args:
      scores: of the units.
      means: mean activations, by which ties are broken, highest first; None where they are not stored. Then, and where
        they are equal, the first units are taken.
      cut: from `cut_count` or `cut_excess`.
      wanted: k.
    """
    mask = exceeding(scores, cut)
    if cut > 0:
        tied = np.flatnonzero(scores == scores.dtype.type(cut))
        if means is not None:
            tied = tied[np.argsort(-means[tied], kind="stable")]
        mask[tied[: wanted - np.count_nonzero(mask)]] = True
    return mask
