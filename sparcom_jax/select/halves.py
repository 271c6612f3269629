"""Two halves of a run's instructions: units are chosen on one and measured on the other."""

import numpy as np
from jaxtyping import Bool

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.store.run import Run

LEAST_ROWS = 4
"""Of a category that is halved: two instructions on either side."""


def in_half(run: Run, half: str, seed: int) -> Bool[np.ndarray, "I"]:
    """Which instructions are in a half.

    The instructions of each category are ordered by their length T and dealt pair by pair, one of each to either half:
    so the halves are alike in category and length, and differ by chance.

    Args:
      run: the run.
      half: `first` or `second`, which share no instruction, or `all`.
      seed: of the dealing.

    Raises:
      InputError: a category has too few instructions to be halved.
    """
    if half == "all":
        return np.ones(len(run.category), bool)
    sizes = np.bincount(run.category, minlength=len(run.categories))
    if few := [f"{name} {n}" for name, n in zip(run.categories, sizes, strict=True) if n < LEAST_ROWS]:
        raise InputError(f"{run.location}: too few instructions to halve: {first_of(few)}; {LEAST_ROWS} of each "
                         f"category are needed, or half=all")  # fmt: skip
    random = np.random.default_rng(seed)
    first = np.zeros(len(run.category), bool)
    for category in range(len(run.categories)):
        rows = np.flatnonzero(run.category == category)
        rows = rows[np.argsort(run.token_count[rows], kind="stable")]
        heads = random.integers(0, 2, (len(rows) + 1) // 2)
        first[rows[np.arange(len(rows)) % 2 == np.repeat(heads, 2)[: len(rows)]]] = True
    return first if half == "first" else ~first
