"""The state of attention: keys and values of what was read before.

Axis legend: S token slots of a batch, R texts of a batch, L layers, G key/value heads, H size of a key, O size of a
value, C positions.
"""

from typing import NamedTuple

from jaxtyping import Array, Float, Int


class KeyValues(NamedTuple):
    """Keys and values of what the texts of a batch have read so far, by layer, text and position."""

    key: Float[Array, "L R C G H"]
    value: Float[Array, "L R C G O"]

    def write(
        self,
        layer: Int[Array, ""],
        row: Int[Array, "S"],
        position: Int[Array, "S"],
        k: Float[Array, "S G H"],
        v: Float[Array, "S G O"],
    ) -> "KeyValues":
        """Adds what the slots of a batch hold; padding, whose row is R, is left out."""
        at = (layer, row, position)
        return KeyValues(self.key.at[at].set(k, mode="drop"), self.value.at[at].set(v, mode="drop"))
