"""The instructions that a selector sees, and which of them it compares: such as are of similar length.

Axis legend: I instructions of the sample, C categories, S strata of length, M instructions of a stratum.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt16

from sparcom_jax.store.run import Run

STRATUM_ROWS = 24
"""Instructions in a stratum of length. Their number stays, so that strata become finer with more instructions."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Some instructions of a run.

    Attributes:
      rows: which instructions of the run.
      labels: the category of each.
      tokens: T of each.
      categories: number of categories C.
      control_length: whether instructions are compared with such of similar length only.
    """

    rows: Int64[np.ndarray, "I"]
    labels: Int64[np.ndarray, "I"]
    tokens: Int64[np.ndarray, "I"]
    categories: int
    control_length: bool

    @classmethod
    def of(cls, run: Run, chosen: Bool[np.ndarray, "_"], *, control_length: bool) -> "Sample":
        """The instructions of a run that are chosen."""
        rows = np.flatnonzero(chosen)
        labels, tokens = run.category[rows].astype(np.int64), run.token_count[rows].astype(np.int64)
        return cls(rows, labels, tokens, len(run.categories), control_length)

    def frequency(self, counts: UInt16[np.ndarray, "I U"]) -> Float32[np.ndarray, "I U"]:
        """The counts of the instructions by T. Equal quotients are equal.

        XLA would multiply by 1 / T instead, and break ties.
        """
        return np.divide(counts, self.tokens[:, None].astype(np.float32), dtype=np.float32)

    @cached_property
    def members(self) -> Float32[np.ndarray, "C I"]:
        """1 where the instruction is of the category."""
        return (self.labels == np.arange(self.categories)[:, None]).astype(np.float32)

    @cached_property
    def sizes(self) -> Int64[np.ndarray, "C"]:
        """Instructions of each category."""
        return np.bincount(self.labels, minlength=self.categories).astype(np.int64)

    @cached_property
    def strata(self) -> Int64[np.ndarray, "S M"]:
        """Positions of the instructions, by stratum of length; -1 fills up. One stratum where length is not controlled.

        Ordered by T they are cut into strata of sizes that differ by one at most; equal T may part.
        """
        order = np.argsort(self.tokens, kind="stable")
        count = max(round(len(order) / STRATUM_ROWS), 1) if self.control_length else 1
        parts = np.array_split(order, count)
        return np.stack([np.pad(part, (0, len(parts[0]) - len(part)), constant_values=-1) for part in parts])

    @cached_property
    def held(self) -> Int64[np.ndarray, "S C"]:
        """Instructions of each category in each stratum."""
        return np.stack([np.bincount(self.labels[part[part >= 0]], minlength=self.categories) for part in self.strata])

    @cached_property
    def pairs(self) -> Int64[np.ndarray, "C"]:
        """Pairs of an instruction of the category and one of another in the same stratum."""
        return (self.held * (self.held.sum(axis=1, keepdims=True) - self.held)).sum(axis=0)
