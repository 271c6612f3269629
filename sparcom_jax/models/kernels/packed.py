"""The operands of attention over packed texts.

Axis legend: S token slots of a batch, N query heads, G key/value heads, H size of a query or key, O size of a value.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class Packed(NamedTuple):
    """What packed attention reads: texts that lie one after another in the slots of a batch.

    Attributes:
      q: queries, scaled.
      k: keys.
      v: values.
      row: which text each slot belongs to, not falling.
      position: position of each slot in its text.
    """

    q: Float[Array, "S N H"]
    k: Float[Array, "S G H"]
    v: Float[Array, "S G O"]
    row: Int[Array, "S"]
    position: Int[Array, "S"]


class Scoring(NamedTuple):
    """Which keys a query sees besides those of its own text up to itself, and what becomes of their scores.

    Attributes:
      sliding_window: a token attends to so many tokens, itself included; None: to all before it.
      cap: scores are squashed into +-cap; 0: they are not.
      sinks: a score for attending to nothing, of each head (Xiao et al. 2023; GPT-OSS).
    """

    sliding_window: Int[Array, ""] | None = None
    cap: float = 0.0
    sinks: Float[Array, "N"] | None = None
