"""What a forward pass reads: texts packed into slots.

Axis legend: S token slots of a batch, R texts of a batch, D model width.
"""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Array, Bool, Float, Int


@dataclass(frozen=True)
class Shape:
    """The static sizes of a batch; each shape is compiled once.

    Attributes:
      slots: token slots S.
      window: attention window W; at least the longest text fits `longest_text(window)`. None: the batch holds the next
        token of each text, and what the texts have read before is in the cache.
      rows: texts R that the batch can hold.
    """

    slots: int
    window: int | None
    rows: int


class Batch(NamedTuple):
    """Texts packed into slots.

    Attributes:
      token: token ids; anything in padding.
      position: position of the token in its text, from 0.
      row: which text of the batch the slot belongs to, not falling; R for padding, which comes last.
      counted: whether the token counts in the statistics.
      variant: which variant of the edits the slot is under; not read where these have one only.
      stream: the residual stream as a layer reads it, for a pass that begins there; None for one over all layers.
    """

    token: Int[Array, "S"]
    position: Int[Array, "S"]
    row: Int[Array, "S"]
    counted: Bool[Array, "S"]
    variant: Int[Array, "S"]
    stream: Float[Array, "S D"] | None = None
