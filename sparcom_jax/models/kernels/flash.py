"""Attention over packed texts as one Pallas kernel: no score leaves the chip, and no key is read in vain.

The method is FlashAttention's (Dao et al. 2022): the softmax of a block of queries is kept up to date while keys pass.

Axis legend: S token slots of a batch, N query heads, G key/value heads, H size of a query or key, O size of a value,
Q query slots of a block, W key slots of a tile.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sparcom_jax.models.kernels.packed import Packed
from sparcom_jax.models.kernels.tiles import exact
from sparcom_jax.models.layers import squash

MOST_BLOCK = 128
"""The most query slots of a program."""
LOWEST = -1e30
"""Score of a key that is not seen; the query's own key, which comes last, makes nothing of it."""


def flash_attention(
    packed: Packed, sliding_window: Int[Array, ""], sinks: Float[Array, "N"], cap: float
) -> Float[Array, "S N O"]:
    """As `packed_attention`, for texts of any length.

    Args:
      packed: queries, keys and values.
      sliding_window: a token attends to so many tokens, itself included.
      sinks: of each head a score for attending to nothing, minus infinity where it may not.
      cap: scores are squashed into +-cap; 0: they are not.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    q, k, v, row, position = packed
    slots, heads, _ = q.shape
    value_size = v.shape[-1]
    per_group = heads // k.shape[1]
    # Triton has powers of two only; zeros add nothing to a score.
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, _power_of_two(x.shape[-1]) - x.shape[-1]))) for x in (q, k, v))
    most, tile = (MOST_BLOCK, 64) if q.dtype.itemsize == 2 else (MOST_BLOCK // 2, 32)
    block = min(slots & -slots, most)  # the largest power of two that divides the slots
    starts = jnp.arange(0, slots, block, dtype=jnp.int32)
    # The first query of a block sees farthest back.
    first = jnp.maximum(starts - jnp.minimum(position[::block], sliding_window - 1), 0) // tile
    precision = exact(q.dtype)

    def kernel(*refs: Any) -> None:
        first_ref, window_ref, sinks_ref, row_ref, q_ref, k_ref, v_ref, y_ref = refs
        number, head = pl.program_id(0), pl.program_id(1)
        group = jax.lax.div(head, jnp.int32(per_group))
        queried = pl.ds(number * block, block)
        slot, text, queries = number * block + jnp.arange(block), row_ref[queried], q_ref[...]

        def see(step: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            highest, total, mixed = state
            keys = pl.ds(step * tile, tile)
            score = triton.dot(queries, k_ref[keys, group, :], trans_b=True, precision=precision)
            distance = slot[:, None] - (step * tile + jnp.arange(tile))[None, :]
            seen = (text[:, None] == row_ref[keys][None, :]) & (distance >= 0) & (distance < window_ref[0])
            score = jnp.where(seen, squash(score, cap), LOWEST)
            top = jnp.maximum(highest, jnp.max(score, axis=1))
            weight, kept = jnp.exp(score - top[:, None]), jnp.exp(highest - top)
            added = triton.dot(weight.astype(v.dtype), v_ref[keys, group, :], precision=precision)
            return top, total * kept + jnp.sum(weight, axis=1), mixed * kept[:, None] + added

        nothing = jnp.full(block, LOWEST, jnp.float32), jnp.zeros(block), jnp.zeros((block, v.shape[-1]))
        stop = jax.lax.div((number + 1) * block, jnp.int32(tile))
        highest, total, mixed = jax.lax.fori_loop(first_ref[number], stop, see, nothing)
        sink = sinks_ref[head]
        top = jnp.maximum(highest, sink)
        total = total * jnp.exp(highest - top) + jnp.exp(sink - top)
        y_ref[...] = (mixed * (jnp.exp(highest - top) / total)[:, None]).astype(y_ref.dtype)

    def call(interpret: bool, *operands: Array) -> Array:
        whole = [pl.BlockSpec(one.shape, lambda _, __, rank=one.ndim: (0,) * rank) for one in operands]
        whole[4] = pl.BlockSpec((block, None, q.shape[-1]), lambda number, head: (number, head, 0))
        mixed: Array = pl.pallas_call(
            kernel,
            out_shape=jax.ShapeDtypeStruct((slots, heads, v.shape[-1]), v.dtype),
            grid=(slots // block, heads),
            in_specs=whole,
            out_specs=pl.BlockSpec((block, None, v.shape[-1]), lambda number, head: (number, head, 0)),
            compiler_params=triton.CompilerParams(num_warps=8 if q.shape[-1] > 64 else 4, num_stages=2),
            interpret=interpret,
            name="flash_attention",
        )(*operands)
        return mixed

    # Where there is no GPU the kernel is interpreted, slowly, so that it can be tested.
    mixed: Array = jax.lax.platform_dependent(
        first, sliding_window.reshape(1), sinks.astype(jnp.float32), row, q, k, v,
        cpu=partial(call, True), default=partial(call, False),
    )  # fmt: skip
    return mixed[:, :, :value_size]


def _power_of_two(size: int) -> int:
    return max(1 << (size - 1).bit_length(), 16)
