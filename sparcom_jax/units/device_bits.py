"""Sets of units as bits (`units/bits.py`), within compiled functions."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, UInt8


def pack_on_device(mask: Bool[Array, "*units F"]) -> UInt8[Array, "*units bytes"]:
    """The same as `pack`, within a compiled function."""
    return jnp.packbits(mask, axis=-1, bitorder="little")


def indicators(packed: UInt8[Array, "I B"]) -> Float32[Array, "I 8*B"]:
    """Membership as 0.0 and 1.0, ready for a matrix product, within a compiled function."""
    shifts = jnp.arange(8, dtype=jnp.uint8)[None, None, :]
    bits = (packed[:, :, None] >> shifts) & jnp.uint8(1)
    return bits.reshape(packed.shape[0], -1).astype(jnp.float32)
