"""Norms, packed causal attention and the MLP.

Axis legend: S token slots of a batch, D model width, N query heads, G key/value heads, H size of a query or key, O size
of a value, F neurons, Q query slots of an attention block, W key slots that a block can see.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from sparcom_jax.models.config import Activation, DecoderConfig, NormKind
from sparcom_jax.models.rope import Rotary, neighbours_to_halves, rotate
from sparcom_jax.models.taps import NeuronTap

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
QUERY_BLOCK = 128
MIN_WINDOW = 128
LATENT_EPSILON = 1e-6
"""DeepSeek's norms within the attention do not heed the config's epsilon."""


def summed(linear: nnx.Linear, x: Float[Array, "S A"], axis: str | None) -> Float[Array, "S D"]:
    """Applies a projection whose inputs are cut over a mesh axis: the parts are summed, then the bias is added.

    Args:
      linear: the projection; its kernel is this device's part.
      x: this device's part of the inputs.
      axis: the mesh axis; None where the model is on one device.
    """
    if axis is None:
        return linear(x)
    y = jax.lax.psum(x @ linear.kernel[...], axis)
    return y if linear.bias is None else y + linear.bias[...]


class Embedding(nnx.Module):
    """Vectors of tokens, in the dtype of the parameters (flax's own layer would turn them into float32)."""

    def __init__(self, tokens: int, width: int, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.variance_scaling(1.0, "fan_in", "normal", out_axis=0)
        self.embedding = nnx.Param(init(rngs.params(), (tokens, width)))

    def __call__(self, token: Int[Array, "S"]) -> Float[Array, "S D"]:
        """Looks tokens up."""
        return jnp.take(self.embedding[...], token, axis=0)

    def attend(self, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
        """Logits of a model whose output head is the embedding."""
        return jnp.einsum("...D,VD->...V", hidden, self.embedding[...])


class Norm(nnx.Module):
    """RMSNorm (Zhang and Sennrich 2019) or LayerNorm (Ba et al. 2016), computed in float32.

    `kind` is as in `DecoderConfig.norm`.
    """

    def __init__(self, width: int, epsilon: float, kind: NormKind) -> None:
        self.scale = nnx.Param(jnp.zeros(width) if kind == "rms_plus_one" else jnp.ones(width))
        if kind == "layer":
            self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon
        self.kind = kind

    def __call__(self, x: Float[Array, "*S D"], axis: str | None = None) -> Float[Array, "*S D"]:
        """Normalises the last axis; over the mesh axis `axis`, each device has its own part of it."""
        high = x.astype(jnp.float32)
        if self.kind == "layer":
            high = high - jnp.mean(high, axis=-1, keepdims=True)
        square = jnp.mean(jnp.square(high), axis=-1, keepdims=True)
        high = high * jax.lax.rsqrt((square if axis is None else jax.lax.pmean(square, axis)) + self.epsilon)
        scale = self.scale[...]
        if self.kind == "rms":
            return high.astype(x.dtype) * scale
        high = high * (scale.astype(jnp.float32) + float(self.kind == "rms_plus_one"))
        if self.kind == "layer":
            high = high + self.bias[...].astype(jnp.float32)
        return high.astype(x.dtype)


def query_block(window: int) -> int:
    """Query slots Q of an attention block that sees `window` key slots."""
    return min(QUERY_BLOCK, window // 2)


def longest_text(window: int) -> int:
    """Length of the longest text that attention with this window is exact for, wherever it lies in the batch."""
    return window - query_block(window) + 1


class View(NamedTuple):
    """How far attention sees.

    Attributes:
      window: key slots W that a block of queries is given; a power of two.
      reach: a token attends to so many tokens, itself included; None: to all before it.
    """

    window: int
    reach: Int[Array, ""] | None = None


def packed_attention(
    q: Float[Array, "S N H"],
    k: Float[Array, "S G H"],
    v: Float[Array, "S G O"],
    row: Int[Array, "S"],
    *,
    view: View,
    cap: float,
    sinks: Float[Array, "N"] | None,
) -> Float[Array, "S N O"]:
    """Causal attention over texts that lie one after another in the slots of a batch.

    The slots are cut into blocks of Q queries; a block sees the `window` key slots that end with its own last one. That
    holds every key of a text of at most `longest_text(window)` tokens; the mask cuts texts apart.

    Args:
      q: queries, scaled.
      k: keys.
      v: values.
      row: which text each slot belongs to, not falling.
      view: how far it sees.
      cap: scores are squashed into +-cap; 0: they are not.
      sinks: a score for attending to nothing, of each head (Xiao et al. 2023; GPT-OSS).

    Returns:
      Attention outputs; the slots of padding attend among themselves.
    """
    slots, heads, head_size = q.shape
    groups = k.shape[1]
    block = query_block(view.window)
    before = view.window - block
    # Heads lead, so that each block's operands are slices; zeros before the first slot make all blocks alike.
    q = jnp.moveaxis(q, 0, 1).reshape(groups, heads // groups, slots, head_size)
    k = jnp.pad(jnp.moveaxis(k, 0, 1), ((0, 0), (before, 0), (0, 0)))
    v = jnp.pad(jnp.moveaxis(v, 0, 1), ((0, 0), (before, 0), (0, 0)))
    key_row = jnp.pad(row, (before, 0), constant_values=-1)
    distance = before + np.arange(block)[:, None] - np.arange(view.window)[None, :]
    visible = distance >= 0 if view.reach is None else (distance >= 0) & (distance < view.reach)
    nothing = None if sinks is None else sinks.astype(jnp.float32).reshape(groups, -1, 1, 1)

    @jax.checkpoint  # training keeps no scores: they are computed again in the backward pass, which is faster, too
    def attend(start: Int[Array, ""]) -> Float[Array, "G heads_per_group Q O"]:
        def cut(x: Array, length: int, axis: int = -2) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, length, axis % x.ndim)

        same_text = cut(row, block, 0)[:, None] == cut(key_row, view.window, 0)[None, :]
        score = jnp.einsum("GMQH,GWH->GMQW", cut(q, block), cut(k, view.window), preferred_element_type=jnp.float32)
        score = jnp.where(same_text & visible, squash(score, cap), -jnp.inf)
        highest = jnp.max(score, axis=-1, keepdims=True)
        if nothing is not None:
            highest = jnp.maximum(highest, nothing)
        weight = jnp.exp(score - highest)
        total = jnp.sum(weight, axis=-1, keepdims=True)
        if nothing is not None:
            total = total + jnp.exp(nothing - highest)
        mixed = jnp.einsum("GMQW,GWO->GMQO", weight.astype(v.dtype), cut(v, view.window))
        return mixed / total.astype(v.dtype)

    starts = jnp.arange(0, slots, block)
    if jax.default_backend() == "cpu":
        # Measured: a loop with two blocks a turn keeps two cores busy and compiles five times faster than all in a row.
        _, blocks = jax.lax.scan(lambda carry, start: (carry, attend(start)), None, starts, unroll=2)
    else:
        blocks = jax.vmap(attend)(starts)
    return jnp.moveaxis(blocks, 3, 1).reshape(slots, heads, v.shape[-1])


def squash(x: Float[Array, "*n"], cap: float) -> Float[Array, "*n"]:
    """Squashes values into +-cap by a tanh; 0 leaves them as they are (Gemma 2)."""
    return cap * jnp.tanh(x / cap) if cap else x


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
        self, x: Float[Array, "S D"], by: Rotary, row: Int[Array, "S"], *, view: View, axis: str | None
    ) -> Float[Array, "S D"]:
        """Attends within each text of the batch; over `axis`, each device has its own heads."""
        config = self.config
        q, k, v = self.q(x), self.k(x), self.v(x)
        if config.qk_norm == "all":
            q, k = self.q_norm(q, axis), self.k_norm(k, axis)
        if config.qkv_clip:
            q, k, v = (jnp.clip(part, -config.qkv_clip, config.qkv_clip) for part in (q, k, v))
        q, k, v = (part.reshape(len(x), -1, config.head_size) for part in (q, k, v))
        if config.qk_norm == "head":
            q, k = self.q_norm(q), self.k_norm(k)
        mixed = packed_attention(
            rotate(q, by) * config.score_scale, rotate(k, by), v, row, view=view, cap=config.score_cap,
            sinks=self.sinks[...] if config.sinks else None,
        )  # fmt: skip
        return summed(self.o, mixed.reshape(len(x), -1), axis)


class LatentAttention(nnx.Module):
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

    def __call__(
        self, x: Float[Array, "S D"], by: Rotary, row: Int[Array, "S"], *, view: View, axis: str | None
    ) -> Float[Array, "S D"]:
        """Attends within each text of the batch; over `axis`, each device has its own heads."""
        config, latent = self.config, self.config.latent
        assert latent is not None
        q = self.q_b(self.q_norm(self.q_a(x))) if latent.query_rank else self.q(x)
        q = q.reshape(len(x), -1, config.head_size)
        compressed = self.kv_a(x)
        kv = self.kv(self.kv_norm(compressed[:, : latent.rank])).reshape(len(x), q.shape[1], -1)
        turned_q = rotate(neighbours_to_halves(q[..., latent.plain_size :]), by)
        turned_k = rotate(neighbours_to_halves(compressed[:, None, latent.rank :]), by)
        turned_k = jnp.broadcast_to(turned_k, turned_q.shape)
        q = jnp.concatenate([q[..., : latent.plain_size], turned_q], axis=-1) * config.score_scale
        k = jnp.concatenate([kv[..., : latent.plain_size], turned_k], axis=-1)
        mixed = packed_attention(q, k, kv[..., latent.plain_size :], row, view=view, cap=config.score_cap, sinks=None)
        return summed(self.o, mixed.reshape(len(x), -1), axis)


class MLP(nnx.Module):
    """down_proj(act_fn(gate_proj(x)) * up_proj(x)), or down_proj(act_fn(gate_proj(x))) where it is not gated."""

    def __init__(
        self, width: int, neurons: int, activation: Activation, rngs: nnx.Rngs, *, bias: bool, gated: bool
    ) -> None:
        self.gate = nnx.Linear(width, neurons, use_bias=bias, rngs=rngs)
        if gated:
            self.up = nnx.Linear(width, neurons, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(neurons, width, use_bias=bias, rngs=rngs)
        self.activation = activation
        self.gated = gated

    def neurons(self, x: Float[Array, "S D"], edit: Float[Array, "F"] | None) -> tuple[Float[Array, "S F"], NeuronTap]:
        """Returns the input of down_proj, edited, and the tap, which shows the neurons as they are before the edit."""
        gate = ACTIVATIONS[self.activation](self.gate(x))
        product = gate * self.up(x) if self.gated else gate
        return product if edit is None else product * edit.astype(product.dtype), NeuronTap(gate, product)

    def __call__(
        self, x: Float[Array, "S D"], edit: Float[Array, "F"] | None, *, axis: str | None
    ) -> tuple[Float[Array, "S D"], NeuronTap]:
        """Returns the output and the tap; over `axis`, each device has its own neurons."""
        product, tap = self.neurons(x, edit)
        return summed(self.down, product, axis), tap
