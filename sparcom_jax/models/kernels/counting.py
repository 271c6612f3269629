"""How often units are active in each text.

Axis legend: A rows that are counted, F columns, R texts, E experts.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, UInt16

from sparcom_jax.models.kernels.choice import CountingKernel


def count_by_row(
    hit: Bool[Array, "A F"], row: Int[Array, "A"], rows: int, kernel: CountingKernel
) -> UInt16[Array, "R F"]:
    """How often each column is True in each text, exactly; at most 65,535 times.

    Args:
      hit: what is counted.
      row: text of each row, not falling; other numbers are counted nowhere.
      rows: texts R.
      kernel: as in `Kernels`.
    """
    if kernel == "matmul":
        sums = jnp.einsum("AR,AF->RF", *_factors(hit, row, rows), preferred_element_type=jnp.float32)
        return sums.astype(jnp.uint16)
    return _scattered(hit, row, rows, kernel)


def count_by_row_and_expert(
    hit: Bool[Array, "A F"],
    row: Int[Array, "A"],
    expert: Int[Array, "A"],
    rows: int,
    experts: int,
    kernel: CountingKernel,
) -> UInt16[Array, "R E F"]:
    """The same for each text and expert.

    Args:
      hit: what is counted.
      row: text of each row, within 0 to R - 1 and not falling within an expert.
      expert: expert of each row, within 0 to E - 1 and not falling.
      rows: texts R.
      experts: E.
      kernel: as in `Kernels`.
    """
    if kernel == "matmul":
        ends = jnp.searchsorted(expert, jnp.arange(experts, dtype=expert.dtype), side="right").astype(jnp.int32)
        # The rows are contracted, those of each expert for themselves.
        by_expert: Any = jax.lax.RaggedDotDimensionNumbers((((0,), (0,)), ((), ())), [0], [])
        sums = jax.lax.ragged_dot_general(*_factors(hit, row, rows), jnp.diff(ends, prepend=0), by_expert,
                                          precision="default", preferred_element_type=jnp.float32)  # fmt: skip
        counts = sums.astype(jnp.uint16)
    else:
        counts = _scattered(hit, expert * rows + row, experts * rows, kernel).reshape(experts, rows, -1)
    return jnp.moveaxis(counts, 0, 1)


def _factors(hit: Bool[Array, "A F"], row: Int[Array, "A"], rows: int) -> tuple[Array, Array]:
    """The operands of a product that counts: zeros and ones are exact in bfloat16, and sums of them in float32."""
    return jax.nn.one_hot(row, rows, dtype=jnp.bfloat16), hit.astype(jnp.bfloat16)


def _scattered(
    hit: Bool[Array, "A F"], segment: Int[Array, "A"], segments: int, kernel: CountingKernel
) -> UInt16[Array, "segments F"]:
    # Half the bytes to add up; accelerators have no atomic additions of 16 bits.
    dtype = jnp.uint16 if kernel == "scatter16" else jnp.int32
    return jax.ops.segment_sum(hit.astype(dtype), segment, segments, indices_are_sorted=True).astype(jnp.uint16)
