"""Sets of units as bits: 8 units a byte along the last axis, the lowest bit first, as runs and sets store them."""

import numpy as np
from jaxtyping import Bool, UInt8


def pack(mask: Bool[np.ndarray, "*units F"]) -> UInt8[np.ndarray, "*units bytes"]:
    """Packs the last axis; the bits that fill the last byte are 0."""
    return np.packbits(mask, axis=-1, bitorder="little")


def unpack(packed: UInt8[np.ndarray, "*units bytes"], count: int) -> Bool[np.ndarray, "*units F"]:
    """Reads back what `pack` made of `count` units on the last axis."""
    return np.unpackbits(packed, axis=-1, count=count, bitorder="little").view(bool)
