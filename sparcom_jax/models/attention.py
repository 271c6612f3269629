"""Causal attention over packed texts, and over a cache of what was read before.

Axis legend: S token slots of a batch, R texts of a batch, L layers, D model width, N query heads, G key/value heads,
H size of a query or key, O size of a value, Q query slots of an attention block, W key slots that a block can see,
C positions of a cache.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Float32, Int

from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.layers import Norm, finite, squash, summed
from sparcom_jax.models.rope import Rotary, neighbours_to_halves, rotate

QUERY_BLOCK = 128
"""The largest block of queries; any number of slots that it divides is cut into blocks of every window."""
LATENT_EPSILON = 1e-6
"""DeepSeek's norms within the attention do not heed the config's epsilon."""


def query_block(window: int) -> int:
    """Query slots Q of an attention block that sees `window` key slots.

    Small blocks waste fewer keys on short texts; measured on CPU, they cost more than they save from 768 keys on.
    """
    return QUERY_BLOCK // 2 if window <= 512 else QUERY_BLOCK


def longest_text(window: int) -> int:
    """Length of the longest text that attention with this window is exact for, wherever it lies in the batch."""
    return window - query_block(window) + 1


def window_for(length: int) -> int:
    """The smallest window that a text of this length fits, of the few that are compiled.

    On CPU a window costs little where less of it is needed (`packed_attention`), so they lie far apart: 512, 2,048 and
    so on. Elsewhere a window is a power of two, or one and a half times one, and less than that factor too wide.
    """
    chosen_at_run_time = jax.default_backend() == "cpu"
    window = 512 if chosen_at_run_time else QUERY_BLOCK
    while longest_text(window) < length:
        window = 4 * window if chosen_at_run_time else _next_size(window)
    return window


def _next_size(size: int) -> int:
    """The next of 64, 96, 128, 192, 256 and so on."""
    return size + size // 2 if size & (size - 1) == 0 else size + size // 3


def _sizes(smallest: int, largest: int) -> list[int]:
    sizes = [smallest]
    while sizes[-1] < largest:
        sizes.append(min(_next_size(sizes[-1]), largest))
    return sizes


class View(NamedTuple):
    """What the attention of a layer sees.

    Attributes:
      window: the most key slots that a block of queries is given, one that `window_for` gives. None: the slots of the
        batch hold one token of each text, which sees what the cache holds of its text.
      reach: a token attends to so many tokens, itself included; None: to all before it.
      layer: which layer of the cache is this one's; None where there is no cache.
    """

    window: int | None
    reach: Int[Array, ""] | None = None
    layer: Int[Array, ""] | None = None


class Cache(NamedTuple):
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
    ) -> "Cache":
        """Adds what the slots of a batch hold; padding, whose row is R, is left out."""
        at = (layer, row, position)
        return Cache(self.key.at[at].set(k, mode="drop"), self.value.at[at].set(v, mode="drop"))


def empty_cache(config: DecoderConfig, rows: int, positions: int, dtype: jnp.dtype, parts: int = 1) -> Cache:
    """A cache that nothing was written into.

    Args:
      config: the model.
      rows: texts R.
      positions: C, tokens that a text can have.
      dtype: of the parameters.
      parts: over how many devices the heads are cut.
    """
    # Of latent attention the full keys and values are kept, not the latents: no product is computed again in each step.
    heads = config.heads if config.latent else config.kv_heads
    shape = (config.num_layers, rows, positions, heads // parts)
    value_size = config.latent.value_size if config.latent else config.head_size
    return Cache(jnp.zeros((*shape, config.head_size), dtype), jnp.zeros((*shape, value_size), dtype))


def packed_attention(
    q: Float[Array, "S N H"],
    k: Float[Array, "S G H"],
    v: Float[Array, "S G O"],
    row: Int[Array, "S"],
    position: Int[Array, "S"],
    *,
    window: int,
    reach: Int[Array, ""] | None,
    cap: float,
    sinks: Float[Array, "N"] | None,
) -> Float[Array, "S N O"]:
    """Causal attention over texts that lie one after another in the slots of a batch.

    The slots are cut into blocks of Q queries. A block sees the W key slots that end with its own last one, and the
    mask cuts texts apart. With W = `window` these hold every key of a text of at most `longest_text(window)` tokens; on
    CPU each block takes the smallest W that holds the keys of its own texts.

    Args:
      q: queries, scaled.
      k: keys.
      v: values.
      row: which text each slot belongs to, not falling.
      position: position of each slot in its text.
      window: as in `View`.
      reach: as in `View`.
      cap: scores are squashed into +-cap; 0: they are not.
      sinks: a score for attending to nothing, of each head (Xiao et al. 2023; GPT-OSS).

    Returns:
      Attention outputs; the slots of padding attend among themselves.
    """
    slots, heads, head_size = q.shape
    groups = k.shape[1]
    # Other texts have a weight of 0 for a value, which does not keep NaN from them. The mask does, so the key bears it.
    sound = finite(v.reshape(slots, -1))[:, None, None]
    k, v = jnp.where(sound, k, jnp.nan), jnp.where(sound, v, 0.0)
    block = query_block(window)
    window = min(window, slots)
    before = window - block
    # Heads lead, so that each block's operands are slices; zeros before the first slot make all blocks alike.
    q = jnp.moveaxis(q, 0, 1).reshape(groups, heads // groups, slots, head_size)
    k = jnp.pad(jnp.moveaxis(k, 0, 1), ((0, 0), (before, 0), (0, 0)))
    v = jnp.pad(jnp.moveaxis(v, 0, 1), ((0, 0), (before, 0), (0, 0)))
    key_row = jnp.pad(row, (before, 0), constant_values=-1)
    distance = before + np.arange(block)[:, None] - np.arange(window)[None, :]
    visible = distance >= 0 if reach is None else (distance >= 0) & (distance < reach)
    nothing = None if sinks is None else sinks.astype(jnp.float32).reshape(groups, -1, 1, 1)

    def attend(start: Int[Array, ""], seen: int) -> Float[Array, "G heads_per_group Q O"]:
        hidden = window - seen

        def keys(x: Array, axis: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start + hidden, seen, axis)

        same_text = jax.lax.dynamic_slice_in_dim(row, start, block)[:, None] == keys(key_row, 0)[None, :]
        queries = jax.lax.dynamic_slice_in_dim(q, start, block, 2)
        score = jnp.einsum("GMQH,GWH->GMQW", queries, keys(k, 1), preferred_element_type=jnp.float32)
        score = jnp.where(same_text & visible[:, hidden:], squash(score, cap), -jnp.inf)
        weight, total = _weigh(score, nothing)
        mixed = jnp.einsum("GMQW,GWO->GMQO", weight.astype(v.dtype), keys(v, 1))
        return mixed / total.astype(v.dtype)

    starts = jnp.arange(0, slots, block)
    # Training keeps no scores: they are computed again in the backward pass, which is faster, too.
    if jax.default_backend() == "cpu":
        # Measured: 0.6 times the keys of windows as wide as the longest text of each batch needs, and one shape, not 4.
        sizes = _sizes(block, window)
        back = position[::block] if reach is None else jnp.minimum(position[::block], reach - 1)
        size = jnp.searchsorted(jnp.asarray(sizes), block + back)
        branches = [partial(attend, seen=seen) for seen in sizes]
        blocks = jax.lax.map(jax.checkpoint(lambda one: jax.lax.switch(one[0], branches, one[1])), (size, starts))
    else:
        blocks = jax.vmap(jax.checkpoint(partial(attend, seen=window)))(starts)
    return jnp.moveaxis(blocks, 3, 1).reshape(slots, heads, v.shape[-1])


def cached_attention(
    q: Float[Array, "R N H"],
    k: Float[Array, "R C G H"],
    v: Float[Array, "R C G O"],
    position: Int[Array, "R"],
    *,
    reach: Int[Array, ""] | None,
    cap: float,
    sinks: Float[Array, "N"] | None,
) -> Float[Array, "R N O"]:
    """Attention of one token of each text over the keys and values of its text, its own included.

    Args:
      q: queries, scaled.
      k: cached keys.
      v: cached values.
      position: position of the token in its text; the cache holds nothing of the text after it.
      reach: as in `View`.
      cap: as in `packed_attention`.
      sinks: as in `packed_attention`.
    """
    rows, heads, head_size = q.shape
    groups = k.shape[2]
    q = q.reshape(rows, groups, heads // groups, head_size)
    distance = position[:, None] - jnp.arange(k.shape[1], dtype=position.dtype)
    visible = distance >= 0 if reach is None else (distance >= 0) & (distance < reach)
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


class Attention(nnx.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        self.q = nnx.Linear(config.width, queries, use_bias=config.qkv_bias, rngs=rngs)
        self.k = nnx.Linear(config.width, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.v = nnx.Linear(config.width, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.o = nnx.Linear(queries, config.width, use_bias=config.output_bias, rngs=rngs)
        if config.qk_norm != "none":
            sizes = (queries, keys) if config.qk_norm == "all" else (config.head_size, config.head_size)
            self.q_norm, self.k_norm = (Norm(size, config.norm_epsilon, config.norm) for size in sizes)
        if config.sinks:
            self.sinks = nnx.Param(jnp.zeros(config.heads))
        self.config = config

    def __call__(
        self,
        x: Float[Array, "S D"],
        by: Rotary,
        row: Int[Array, "S"],
        position: Int[Array, "S"],
        *,
        view: View,
        cache: Cache | None,
        axis: str | None,
    ) -> tuple[Float[Array, "S D"], Cache | None]:
        """Attends within each text of the batch; over `axis`, each device has its own heads.

        Returns:
          The output, and the cache with the new keys and values in it.
        """
        q, k, v = self.project(x, by, axis)
        q = q * self.config.score_scale
        cap, sinks = self.config.score_cap, self.sinks[...] if self.config.sinks else None
        if cache is not None:
            assert view.layer is not None
            cache = cache.write(view.layer, row, position, k, v)
        if view.window is not None:
            mixed = packed_attention(q, k, v, row, position, window=view.window, reach=view.reach, cap=cap, sinks=sinks)
        else:
            assert cache is not None
            k, v = cache.key[view.layer], cache.value[view.layer]
            mixed = cached_attention(q, k, v, position, reach=view.reach, cap=cap, sinks=sinks)
        return summed(self.o, mixed.reshape(len(x), -1), axis), cache

    def project(
        self, x: Float[Array, "S D"], by: Rotary, axis: str | None
    ) -> tuple[Float[Array, "S N H"], Float[Array, "S G H"], Float[Array, "S G O"]]:
        """Queries, keys and values, turned by their positions."""
        config = self.config
        q, k, v = self.q(x), self.k(x), self.v(x)
        if config.qk_norm == "all":
            q, k = self.q_norm(q, axis), self.k_norm(k, axis)
        if config.qkv_clip:
            q, k, v = (jnp.clip(part, -config.qkv_clip, config.qkv_clip) for part in (q, k, v))
        q, k, v = (part.reshape(len(x), -1, config.head_size) for part in (q, k, v))
        if config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, by), rotate(k, by), v


class LatentAttention(Attention):
    """Multi-head latent attention (DeepSeek-AI 2024); a query and a key are a plain part and a turned part."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        assert config.latent is not None
        latent, turned = config.latent, config.head_size - config.latent.plain_size
        queries = config.heads * config.head_size
        if latent.query_rank:
            self.q_a = nnx.Linear(config.width, latent.query_rank, use_bias=config.qkv_bias, rngs=rngs)
            self.q_norm = Norm(latent.query_rank, LATENT_EPSILON, config.norm)
            self.q_b = nnx.Linear(latent.query_rank, queries, use_bias=False, rngs=rngs)
        else:
            self.q = nnx.Linear(config.width, queries, use_bias=False, rngs=rngs)
        self.kv_a = nnx.Linear(config.width, latent.rank + turned, use_bias=config.qkv_bias, rngs=rngs)
        self.kv_norm = Norm(latent.rank, LATENT_EPSILON, config.norm)
        keys_and_values = config.heads * (latent.plain_size + latent.value_size)
        self.kv = nnx.Linear(latent.rank, keys_and_values, use_bias=False, rngs=rngs)
        self.o = nnx.Linear(config.heads * latent.value_size, config.width, use_bias=config.output_bias, rngs=rngs)
        self.config = config

    def project(
        self, x: Float[Array, "S D"], by: Rotary, axis: str | None
    ) -> tuple[Float[Array, "S N H"], Float[Array, "S N H"], Float[Array, "S N O"]]:
        """Queries, keys and values of every head, read off their latents."""
        del axis
        latent = self.config.latent
        assert latent is not None
        q = self.q_b(self.q_norm(self.q_a(x))) if latent.query_rank else self.q(x)
        q = q.reshape(len(x), -1, self.config.head_size)
        compressed = self.kv_a(x)
        kv = self.kv(self.kv_norm(compressed[:, : latent.rank])).reshape(len(x), q.shape[1], -1)
        turned_q = rotate(neighbours_to_halves(q[..., latent.plain_size :]), by)
        turned_k = rotate(neighbours_to_halves(compressed[:, None, latent.rank :]), by)
        turned_k = jnp.broadcast_to(turned_k, turned_q.shape)
        q = jnp.concatenate([q[..., : latent.plain_size], turned_q], axis=-1)
        k = jnp.concatenate([kv[..., : latent.plain_size], turned_k], axis=-1)
        return q, k, kv[..., latent.plain_size :]
