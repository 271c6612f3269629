"""Attention over the tokens of a text, with grouped queries and rotary positions.

Axis legend: S token slots of a batch, D model width, N query heads, G key/value heads, H size of a query or key, O size
of a value.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparcom_jax.models.collectives import replicated_input
from sparcom_jax.models.config import DecoderConfig, Mixer
from sparcom_jax.models.context import Context, LayerConstants
from sparcom_jax.models.kernels.attention import cached_attention, packed_attention
from sparcom_jax.models.kernels.packed import Packed, Scoring
from sparcom_jax.models.layers import Linear, Norm, summed
from sparcom_jax.models.mixers.key_values import KeyValues
from sparcom_jax.models.rope import Rotary, rotate


class Attention(nnx.Module):
    """Multi-head, grouped-query or multi-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, mixer: Mixer, rngs: nnx.Rngs) -> None:
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        self.q = Linear(config.width, queries, bias=config.qkv_bias, rngs=rngs)
        self.k = Linear(config.width, keys, bias=config.qkv_bias, rngs=rngs)
        self.v = Linear(config.width, keys, bias=config.qkv_bias, rngs=rngs)
        self.o = Linear(queries, config.width, bias=config.output_bias, rngs=rngs)
        if config.qk_norm != "none":
            sizes = (queries, keys) if config.qk_norm == "all" else (config.head_size, config.head_size)
            self.q_norm, self.k_norm = (Norm(size, config.norm_epsilon, config.norm) for size in sizes)
        if config.sinks:
            self.sinks = nnx.Param(jnp.zeros(config.heads))
        self.config = config
        self.mixer = mixer

    @staticmethod
    def empty_state(
        config: DecoderConfig, mixer: Mixer, sizes: tuple[int, int, int], dtype: jnp.dtype, parts: int
    ) -> KeyValues:
        """A state that nothing was written into.

        Args:
          config: the model.
          mixer: the kind of attention.
          sizes: layers of this kind, texts R, and positions C.
          dtype: of the parameters.
          parts: over how many devices the heads are sharded.
        """
        del mixer
        shape = (*sizes, config.kv_heads // parts, config.head_size)
        return KeyValues(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    def __call__(
        self, x: Float[Array, "S D"], context: Context, constants: LayerConstants, state: KeyValues | None
    ) -> tuple[Float[Array, "S D"], KeyValues | None]:
        """Attends within each text of the batch; over a mesh axis, each device has its own heads.

        Returns:
          The output, and the state with the new keys and values in it.
        """
        axis, batch = context.compute.axis, context.batch
        q, k, v = self.project(x, context.rotary(constants), axis)
        q = q * self.config.score_scale
        sinks = self.sinks[...] if self.config.sinks else None
        scoring = Scoring(constants.sliding_window, self.config.score_cap, sinks)
        if state is not None:
            state = state.write(constants.state, batch.row, batch.position, k, v)
        if context.window is not None:
            packed = Packed(q, k, v, batch.row, batch.position)
            mixed = packed_attention(packed, scoring, context.window, context.compute.kernels.attention)
        else:
            assert state is not None
            k, v = state.key[constants.state], state.value[constants.state]
            mixed = cached_attention(q, k, v, batch.position, scoring)
        return summed(self.o, mixed.reshape(len(x), -1), axis), state

    def project(
        self, x: Float[Array, "S D"], angles: Rotary, axis: str | None
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
        return rotate(q, angles), rotate(k, angles), v
