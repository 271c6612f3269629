"""Causal attention over packed texts, and over a cache of what was read before: the ways to do it.

Axis legend: S token slots of a batch, R texts of a batch, N query heads, G key/value heads, H size of a query or key,
O size of a value, Q query slots of an attention block, W key slots that a block can see, C positions of a cache.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int

from sparcom_jax.models.kernels.choice import AttentionKernel
from sparcom_jax.models.kernels.flash import flash_attention
from sparcom_jax.models.kernels.packed import Packed, Scoring
from sparcom_jax.models.layers import finite, squash

QUERY_BLOCK = 128
"""The largest block of queries; any number of slots that it divides is cut into blocks of every window."""


def query_block(window: int) -> int:
    """Query slots Q of an attention block that sees `window` key slots.

    Small blocks waste fewer keys on short texts; measured on CPU, they cost more than they save from 768 keys on.
    """
    return QUERY_BLOCK // 2 if window <= 512 else QUERY_BLOCK


def longest_text(window: int) -> int:
    """Length of the longest text that attention with this window is exact for, wherever it lies in the batch."""
    return window - query_block(window) + 1


def window_for(length: int, kernel: AttentionKernel) -> int:
    """The smallest window that a text of this length fits, of the few that are compiled.

    With `one_window` it is a power of two, or one and a half times one, and less than that factor too wide. Otherwise a
    window costs little where less of it is needed, so they lie far apart: 512, 2,048 and so on.
    """
    window = QUERY_BLOCK if kernel == "one_window" else 512
    while longest_text(window) < length:
        window = _next_size(window) if kernel == "one_window" else 4 * window
    return window


def _next_size(size: int) -> int:
    """The next of 64, 96, 128, 192, 256 and so on."""
    return size + size // 2 if size & (size - 1) == 0 else size + size // 3


def _sizes(smallest: int, largest: int) -> list[int]:
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(min(_next_size(sizes[-1]), largest))
    return sizes


def packed_attention(packed: Packed, scoring: Scoring, window: int, kernel: AttentionKernel) -> Float[Array, "S N O"]:
    """Causal attention within each text of a batch.

    It is exact for texts of at most `longest_text(window)` tokens.

    Args:
      packed: queries, keys and values.
      scoring: which keys are seen.
      window: the most key slots that a block of queries is given, one that `window_for` gives.
      kernel: as in `Kernels`.

    Returns:
      Attention outputs; the slots of padding attend among themselves.
    """
    q, k, v, _, _ = packed
    # Other texts have a weight of 0 for a value, which does not keep NaN from them. The mask does, so the key bears it.
    sound = finite(v.reshape(len(v), -1))[:, None, None]
    k, v = jnp.where(sound, k, jnp.nan), jnp.where(sound, v, 0.0)
    packed = packed._replace(k=k, v=v)
    if kernel != "triton":
        return _in_windows(packed, scoring, window, kernel)
    everything = jnp.int32(np.iinfo(np.int32).max) if scoring.sliding_window is None else scoring.sliding_window
    never = jnp.full(q.shape[1], -jnp.inf, jnp.float32) if scoring.sinks is None else scoring.sinks
    return _flash(packed, everything, never, window, scoring.cap)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _flash(packed: Packed, sliding_window: Array, sinks: Array, window: int, cap: float) -> Float[Array, "S N O"]:
    del window
    return flash_attention(packed, sliding_window, sinks, cap)


def _flash_forward(*inputs: Any) -> tuple[Array, tuple[Any, ...]]:
    return _flash(*inputs), inputs[:3]


def _flash_backward(window: int, cap: float, inputs: tuple[Any, ...], mixed: Array) -> tuple[Any, ...]:
    packed, sliding_window, sinks = inputs

    def again(q: Array, k: Array, v: Array, sinks: Array) -> Array:
        read = Packed(q, k, v, packed.row, packed.position)
        return _in_windows(read, Scoring(sliding_window, cap, sinks), window, "one_window")

    of_q, of_k, of_v, of_sinks = jax.vjp(again, packed.q, packed.k, packed.v, sinks)[1](mixed)
    return Packed(of_q, of_k, of_v, None, None), None, of_sinks  # type: ignore[arg-type]


_flash.defvjp(_flash_forward, _flash_backward)


class _Windows(NamedTuple):
    """What blocks of Q queries read: heads lead, so that each block's operands are slices.

    A block sees the W key slots that end with its own last one, and the mask cuts texts apart. Before the first slot
    are zeros, which make all blocks alike.

    Attributes:
      q: `[G, heads per group, S, H]`.
      k: `[G, before + S, H]`.
      v: `[G, before + S, O]`.
      row: the text of each query.
      key_row: of each key.
      near: whether a key of the window is as near as the query may look.
      nothing: the sinks by group, or None.
    """

    q: Array
    k: Array
    v: Array
    row: Int[Array, "S"]
    key_row: Int[Array, "_"]
    near: Bool[Array, "Q W"]
    nothing: Array | None

    @property
    def block(self) -> int:
        """Q."""
        return int(self.near.shape[0])

    @property
    def window(self) -> int:
        """W."""
        return int(self.near.shape[1])

    def queries(self, start: Int[Array, ""]) -> Array:
        """The queries of a block."""
        return jax.lax.dynamic_slice_in_dim(self.q, start, self.block, 2)

    def keys(self, start: Int[Array, ""], seen: int) -> tuple[Array, Array]:
        """The last keys and values of its window."""
        first = start + self.window - seen
        k, v = (jax.lax.dynamic_slice_in_dim(one, first, seen, 1) for one in (self.k, self.v))
        return k, v

    def visible(self, start: Int[Array, ""], seen: int) -> Bool[Array, "Q seen"]:
        """Which of these each query attends to."""
        hidden = self.window - seen
        own = jax.lax.dynamic_slice_in_dim(self.row, start, self.block)
        others = jax.lax.dynamic_slice_in_dim(self.key_row, start + hidden, seen)
        return (own[:, None] == others[None, :]) & self.near[:, hidden:]


def _windows(packed: Packed, scoring: Scoring, window: int) -> _Windows:
    q, k, v, row, _ = packed
    slots, heads, head_size = q.shape
    groups = k.shape[1]
    block = query_block(window)
    window = min(window, slots)
    before = window - block
    distance = before + np.arange(block)[:, None] - np.arange(window)[None, :]
    limit = scoring.sliding_window
    near = jnp.asarray(distance >= 0)
    return _Windows(
        jnp.moveaxis(q, 0, 1).reshape(groups, heads // groups, slots, head_size),
        jnp.pad(jnp.moveaxis(k, 0, 1), ((0, 0), (before, 0), (0, 0))),
        jnp.pad(jnp.moveaxis(v, 0, 1), ((0, 0), (before, 0), (0, 0))),
        row,
        jnp.pad(row, (before, 0), constant_values=-1),
        near if limit is None else near & (distance < limit),
        None if scoring.sinks is None else scoring.sinks.astype(jnp.float32).reshape(groups, -1, 1, 1),
    )


def _attend(
    q: Float[Array, "G M Q H"],
    k: Float[Array, "G W H"],
    v: Float[Array, "G W O"],
    nothing: Float32[Array, "G M 1 1"] | None,
    visible: Bool[Array, "Q W"],
    cap: float,
) -> Float[Array, "G M Q O"]:
    score = jnp.einsum("GMQH,GWH->GMQW", q, k, preferred_element_type=jnp.float32)
    weight, total = _weigh(jnp.where(visible, squash(score, cap), -jnp.inf), nothing)
    return jnp.einsum("GMQW,GWO->GMQO", weight.astype(v.dtype), v) / total.astype(v.dtype)


def _in_windows(packed: Packed, scoring: Scoring, window: int, kernel: AttentionKernel) -> Float[Array, "S N O"]:
    """Attention by blocks of Q queries.

    With W = `window` the keys of a block hold every one of a text of at most `longest_text(window)` tokens; with
    `own_window` each block takes the smallest W that holds the keys of its own texts.
    """
    read = _windows(packed, scoring, window)
    slots = len(packed.row)
    starts = jnp.arange(0, slots, read.block)
    if kernel == "own_window":
        # Measured: 0.6 times the keys of windows as wide as the longest text of each batch needs, and one shape, not 4.
        back = packed.position[:: read.block]
        back = back if scoring.sliding_window is None else jnp.minimum(back, scoring.sliding_window - 1)
        size = jnp.searchsorted(jnp.asarray(_sizes(read.block, read.window)), read.block + back)
        blocks = _own_windows(read, size, starts, scoring.cap)
    else:

        def attend(start: Int[Array, ""]) -> Array:
            return _attend(read.queries(start), *read.keys(start, read.window), read.nothing,
                           read.visible(start, read.window), scoring.cap)  # fmt: skip

        # Training keeps no scores: they are computed again in the backward pass, which is faster, too.
        blocks = jax.vmap(jax.checkpoint(attend))(starts)
    return jnp.moveaxis(blocks, 3, 1).reshape(slots, -1, packed.v.shape[-1])


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _own_windows(
    read: _Windows, size: Int[Array, "blocks"], starts: Int[Array, "blocks"], cap: float
) -> Float[Array, "blocks G M Q O"]:
    """Attention of every block over as many keys as its size says."""

    def attend(start: Int[Array, ""], seen: int) -> Array:
        return _attend(read.queries(start), *read.keys(start, seen), read.nothing, read.visible(start, seen), cap)

    branches = [partial(attend, seen=seen) for seen in _sizes(read.block, read.window)]
    return jax.lax.map(lambda one: jax.lax.switch(one[0], branches, one[1]), (size, starts))


def _own_windows_forward(*inputs: Any) -> tuple[Array, tuple[Any, ...]]:
    return _own_windows(*inputs), inputs[:3]


def _own_windows_backward(cap: float, inputs: tuple[Any, ...], mixed: Array) -> tuple[Any, ...]:
    """Block by block, each anew: the gradients of its keys are added where these lie.

    Autodiff of the map would add up gradients of all keys in every block.
    """
    read, size, starts = inputs

    def backward(start: Int[Array, ""], of_mixed: Array, seen: int) -> tuple[Array | None, ...]:
        given = (read.queries(start), *read.keys(start, seen), read.nothing)
        visible = read.visible(start, seen)
        of_q, of_k, of_v, of_nothing = jax.vjp(partial(_attend, visible=visible, cap=cap), *given)[1](of_mixed)
        padding = ((0, 0), (read.window - seen, 0), (0, 0))
        return of_q, jnp.pad(of_k, padding), jnp.pad(of_v, padding), of_nothing

    branches = [partial(backward, seen=seen) for seen in _sizes(read.block, read.window)]

    def add(sums: tuple[Any, ...], one: tuple[Array, ...]) -> tuple[tuple[Any, ...], Array]:
        number, start, of_mixed = one
        of_q, of_k, of_v, of_nothing = jax.lax.switch(number, branches, start, of_mixed)
        of_keys = [
            jax.lax.dynamic_update_slice_in_dim(
                total, jax.lax.dynamic_slice_in_dim(total, start, read.window, 1) + part, start, 1
            )
            for total, part in zip(sums[:2], (of_k, of_v), strict=True)
        ]
        return (*of_keys, None if of_nothing is None else sums[2] + of_nothing), of_q

    none = None if read.nothing is None else jnp.zeros_like(read.nothing)
    zeros = (jnp.zeros_like(read.k), jnp.zeros_like(read.v), none)
    (of_k, of_v, of_nothing), of_q = jax.lax.scan(add, zeros, (size, starts, mixed))
    of_q = jnp.moveaxis(of_q, 0, 2).reshape(read.q.shape)
    return _Windows(of_q, of_k, of_v, None, None, None, of_nothing), None, None  # type: ignore[arg-type]


_own_windows.defvjp(_own_windows_forward, _own_windows_backward)


def cached_attention(
    q: Float[Array, "R N H"],
    k: Float[Array, "R C G H"],
    v: Float[Array, "R C G O"],
    position: Int[Array, "R"],
    scoring: Scoring,
) -> Float[Array, "R N O"]:
    """Attention of one token of each text over the keys and values of its text, its own included.

    Args:
      q: queries, scaled.
      k: cached keys.
      v: cached values.
      position: position of the token in its text; the cache holds nothing of the text after it.
      scoring: which keys are seen.
    """
    sliding_window, cap, sinks = scoring
    rows, heads, head_size = q.shape
    groups = k.shape[2]
    q = q.reshape(rows, groups, heads // groups, head_size)
    distance = position[:, None] - jnp.arange(k.shape[1], dtype=position.dtype)
    visible = distance >= 0 if sliding_window is None else (distance >= 0) & (distance < sliding_window)
    nothing = None if sinks is None else sinks.astype(jnp.float32).reshape(groups, -1, 1)
    score = squash(jnp.einsum("RGMH,RCGH->RGMC", q, k, preferred_element_type=jnp.float32), cap)
    weight, total = _weigh(jnp.where(visible[:, None, None], score, -jnp.inf), nothing)
    mixed = jnp.einsum("RGMC,RCGO->RGMO", weight.astype(v.dtype), v) / total.astype(v.dtype)
    return mixed.reshape(rows, heads, v.shape[-1])


def _weigh(
    score: Float32[Array, "*n keys"], nothing: Float32[Array, "..."] | None
) -> tuple[Float32[Array, "*n keys"], Float32[Array, "*n 1"]]:
    """Softmax before its division: weights of the keys, and what they are to be divided by."""
    highest = jnp.max(score, axis=-1, keepdims=True)
    if nothing is not None:
        highest = jnp.maximum(highest, nothing)
    weight = jnp.exp(score - highest)
    total = jnp.sum(weight, axis=-1, keepdims=True)
    return weight, total if nothing is None else total + jnp.exp(nothing - highest)
