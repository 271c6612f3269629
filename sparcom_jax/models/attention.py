"""The attention layers: projections, rotary positions, and the cache of what was read before.

Axis legend: S token slots of a batch, R texts of a batch, L layers, D model width, N query heads, G key/value heads,
H size of a query or key, O size of a value, C positions of a cache.
"""

from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sparcom_jax.models.collectives import replicated_input
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.kernels.attention import cached_attention, packed_attention
from sparcom_jax.models.kernels.choice import AttentionKernel
from sparcom_jax.models.layers import Norm, summed
from sparcom_jax.models.rope import Rotary, neighbours_to_halves, rotate

LATENT_EPSILON = 1e-6
"""DeepSeek's norms within the attention do not heed the config's epsilon."""


class View(NamedTuple):
    """What the attention of a layer sees.

    Attributes:
      window: as in `packed_attention`. None: the slots of the batch hold one token of each text, which sees what the
        cache holds of its text.
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
        kernel: AttentionKernel,
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
            mixed = packed_attention(q, k, v, row, position, window=view.window, reach=view.reach, cap=cap,
                                     sinks=sinks, kernel=kernel)  # fmt: skip
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
        x = replicated_input(x, axis)
        q, k, v = self.q(x), self.k(x), self.v(x)
        if config.qk_norm == "all":
            q, k = self.q_norm(q, width_axis=axis), self.k_norm(k, width_axis=axis)
        if config.qkv_clip:
            q, k, v = (jnp.clip(part, -config.qkv_clip, config.qkv_clip) for part in (q, k, v))
        q, k, v = (part.reshape(len(x), -1, config.head_size) for part in (q, k, v))
        if config.qk_norm == "head":
            q, k = self.q_norm(q, rows_axis=axis), self.k_norm(k, rows_axis=axis)
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
        latent = self.config.latent
        assert latent is not None
        # The latents are whole on every device, what is made of them is split by heads.
        read = replicated_input(self.q_norm(self.q_a(x)) if latent.query_rank else x, axis)
        q = (self.q_b if latent.query_rank else self.q)(read).reshape(len(x), -1, self.config.head_size)
        compressed = self.kv_a(x)
        normed = replicated_input(self.kv_norm(compressed[:, : latent.rank]), axis)
        kv = self.kv(normed).reshape(len(x), q.shape[1], -1)
        turned_q = rotate(neighbours_to_halves(q[..., latent.plain_size :]), by)
        turned_k = rotate(neighbours_to_halves(compressed[:, None, latent.rank :]), by)
        turned_k = jnp.broadcast_to(replicated_input(turned_k, axis), turned_q.shape)
        q = jnp.concatenate([q[..., : latent.plain_size], turned_q], axis=-1)
        k = jnp.concatenate([kv[..., : latent.plain_size], turned_k], axis=-1)
        return q, k, kv[..., latent.plain_size :]
