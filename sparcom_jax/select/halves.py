"""Two halves of instructions: units are chosen, or a model is tuned, on one; what comes of it is measured on the other.

Axis legend: I instructions.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.store.run import Run

LEAST_ROWS = 4
"""Of a category that is halved: two instructions on either side."""


def in_half(run: Run, half: str, seed: int) -> Bool[np.ndarray, "I"]:
    """Which instructions of a run are in a half, by their length T.

    Args:
      run: the run.
      half: as for `deal`.
      seed: as for `deal`.

    Raises:
      InputError: as `deal`.
    """
    return deal(run.category, run.token_count, run.categories, half, seed, run.location)


def deal(
    category: UInt8[np.ndarray, "I"], lengths: Integer[np.ndarray, "I"], names: Sequence[str], half: str, seed: int,
    where: str,
) -> Bool[np.ndarray, "I"]:  # fmt: skip
    """Which instructions are in a half.

    The instructions of each category are ordered by their length and dealt pair by pair, one of each to either half: so
    the halves are alike in category and length, and differ by chance.

    Args:
      category: index of each.
      lengths: tokens of each.
      names: of the categories.
      half: `first` or `second`, which share no instruction, or `all`.
      seed: of the dealing.
      where: what the instructions are called in messages.

    Raises:
      InputError: a category has too few instructions to be halved.
    """
    if half == "all":
        return np.ones(len(category), bool)
    sizes = np.bincount(category, minlength=len(names))
    if few := [f"{name} {n}" for name, n in zip(names, sizes, strict=True) if n < LEAST_ROWS]:
        raise InputError(f"{where}: too few instructions to halve: {first_of(few)}; {LEAST_ROWS} of each "
                         f"category are needed, or half=all")  # fmt: skip
    random = np.random.default_rng(seed)
    first = np.zeros(len(category), bool)
    for number in range(len(names)):
        rows = np.flatnonzero(category == number)
        rows = rows[np.argsort(lengths[rows], kind="stable")]
        heads = random.integers(0, 2, (len(rows) + 1) // 2)
        first[rows[np.arange(len(rows)) % 2 == np.repeat(heads, 2)[: len(rows)]]] = True
    return first if half == "first" else ~first
