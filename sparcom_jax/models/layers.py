"""Norm, rotary embedding, packed causal attention and the gated MLP.

Axis legend: S token slots of a batch, D model width, N query heads, G key/value heads, H head size, F neurons,
Q query slots of an attention block, W key slots that a block can see.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Int

from sparcom_jax.models.config import Activation, DecoderConfig, Rope
from sparcom_jax.models.taps import NeuronTap

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}
QUERY_BLOCK = 128
MIN_WINDOW = 128


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


class RMSNorm(nnx.Module):
    """Root mean square norm (Zhang and Sennrich 2019), computed in float32 and scaled in the input's dtype."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.epsilon = epsilon

    def __call__(self, x: Float[Array, "S D"]) -> Float[Array, "S D"]:
        """Normalises each token."""
        high = x.astype(jnp.float32)
        high = high * jax.lax.rsqrt(jnp.mean(jnp.square(high), axis=-1, keepdims=True) + self.epsilon)
        return high.astype(x.dtype) * self.scale[...]


def rope_frequencies(rope: Rope, head_size: int) -> Float[np.ndarray, "{head_size}//2"]:
    """Angles per position of each pair of dimensions, in radians (Su et al. 2021; Llama 3.1 for `llama3`).

    Args:
      rope: which kind, and its constants.
      head_size: H.
    """
    frequency = 1.0 / rope.theta ** (np.arange(0, head_size, 2, dtype=np.float32) / np.float32(head_size))
    if rope.kind == "linear":
        frequency = frequency / rope.factor
    if rope.kind == "llama3":
        turns = rope.original_positions * frequency / (2 * np.pi)
        kept = (turns - rope.low_frequency_factor) / (rope.high_frequency_factor - rope.low_frequency_factor)
        kept = np.clip(kept, 0.0, 1.0)
        frequency = kept * frequency + (1.0 - kept) * frequency / rope.factor
    return frequency.astype(np.float32)


class Rotary(NamedTuple):
    """Cosine and sine of the angle of each position and pair of dimensions."""

    cos: Float[Array, "S half"]
    sin: Float[Array, "S half"]


def rotary(position: Int[Array, "S"], rope: Rope, head_size: int) -> Rotary:
    """The angles of all slots; they are the same in every layer."""
    angle = position[:, None].astype(jnp.float32) * rope_frequencies(rope, head_size)
    return Rotary(jnp.cos(angle), jnp.sin(angle))


def rotate(x: Float[Array, "S heads H"], by: Rotary) -> Float[Array, "S heads H"]:
    """Turns the pairs (h, h + H/2) of each head by angles that grow with the position."""
    cos, sin = (part[:, None, :].astype(x.dtype) for part in by)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def query_block(window: int) -> int:
    """Query slots Q of an attention block that sees `window` key slots."""
    return min(QUERY_BLOCK, window // 2)


def longest_text(window: int) -> int:
    """Length of the longest text that attention with this window is exact for, wherever it lies in the batch."""
    return window - query_block(window) + 1


def packed_attention(
    q: Float[Array, "S N H"], k: Float[Array, "S G H"], v: Float[Array, "S G H"], row: Int[Array, "S"], *, window: int
) -> Float[Array, "S N H"]:
    """Causal attention over texts that lie one after another in the slots of a batch.

    The slots are cut into blocks of Q queries; a block sees the `window` key slots that end with its own last one. That
    holds every key of a text of at most `longest_text(window)` tokens; the mask cuts texts apart.

    Args:
      q: queries.
      k: keys.
      v: values.
      row: which text each slot belongs to, not falling.
      window: key slots W that a block sees; a power of two.

    Returns:
      Attention outputs; the slots of padding attend among themselves.
    """
    slots, heads, head_size = q.shape
    groups = k.shape[1]
    block = query_block(window)
    before = window - block
    # Heads lead, so that each block's operands are slices; zeros before the first slot make all blocks alike.
    q = jnp.moveaxis(q * head_size**-0.5, 0, 1).reshape(groups, heads // groups, slots, head_size)
    k = jnp.pad(jnp.moveaxis(k, 0, 1), ((0, 0), (before, 0), (0, 0)))
    v = jnp.pad(jnp.moveaxis(v, 0, 1), ((0, 0), (before, 0), (0, 0)))
    key_row = jnp.pad(row, (before, 0), constant_values=-1)
    causal = np.arange(window)[None, :] <= before + np.arange(block)[:, None]

    @jax.checkpoint  # training keeps no scores: they are computed again in the backward pass, which is faster, too
    def attend(start: Int[Array, ""]) -> Float[Array, "G heads_per_group Q H"]:
        def cut(x: Array, length: int, axis: int = -2) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, start, length, axis % x.ndim)

        same_text = cut(row, block, 0)[:, None] == cut(key_row, window, 0)[None, :]
        score = jnp.einsum("GMQH,GWH->GMQW", cut(q, block), cut(k, window), preferred_element_type=jnp.float32)
        score = jnp.where(same_text & causal, score, -jnp.inf)
        weight = jnp.exp(score - jnp.max(score, axis=-1, keepdims=True))
        total = jnp.sum(weight, axis=-1, keepdims=True)
        mixed = jnp.einsum("GMQW,GWH->GMQH", weight.astype(v.dtype), cut(v, window))
        return mixed / total.astype(v.dtype)

    starts = jnp.arange(0, slots, block)
    if jax.default_backend() == "cpu":
        # Measured: a loop with two blocks a turn keeps two cores busy and compiles five times faster than all in a row.
        _, blocks = jax.lax.scan(lambda carry, start: (carry, attend(start)), None, starts, unroll=2)
    else:
        blocks = jax.vmap(attend)(starts)
    return jnp.moveaxis(blocks, 3, 1).reshape(slots, heads, head_size)


class Attention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
        self.q = nnx.Linear(config.width, queries, use_bias=config.qkv_bias, rngs=rngs)
        self.k = nnx.Linear(config.width, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.v = nnx.Linear(config.width, keys, use_bias=config.qkv_bias, rngs=rngs)
        self.o = nnx.Linear(queries, config.width, use_bias=config.output_bias, rngs=rngs)
        self.head_size = config.head_size

    def __call__(
        self, x: Float[Array, "S D"], by: Rotary, row: Int[Array, "S"], *, window: int, axis: str | None
    ) -> Float[Array, "S D"]:
        """Attends within each text of the batch; over `axis`, each device has its own heads."""
        slots = x.shape[0]
        q = rotate(self.q(x).reshape(slots, -1, self.head_size), by)
        k = rotate(self.k(x).reshape(slots, -1, self.head_size), by)
        v = self.v(x).reshape(slots, -1, self.head_size)
        return summed(self.o, packed_attention(q, k, v, row, window=window).reshape(slots, -1), axis)


class GatedMLP(nnx.Module):
    """down_proj(act_fn(gate_proj(x)) * up_proj(x)), with its neurons tapped (Shazeer 2020)."""

    def __init__(self, width: int, neurons: int, activation: Activation, bias: bool, rngs: nnx.Rngs) -> None:
        self.gate = nnx.Linear(width, neurons, use_bias=bias, rngs=rngs)
        self.up = nnx.Linear(width, neurons, use_bias=bias, rngs=rngs)
        self.down = nnx.Linear(neurons, width, use_bias=bias, rngs=rngs)
        self.activation = activation

    def neurons(self, x: Float[Array, "S D"], edit: Float[Array, "F"] | None) -> tuple[Float[Array, "S F"], NeuronTap]:
        """Returns the input of down_proj, edited, and the tap, which shows the neurons as they are before the edit."""
        gate = ACTIVATIONS[self.activation](self.gate(x))
        product = gate * self.up(x)
        return product if edit is None else product * edit.astype(product.dtype), NeuronTap(gate, product)

    def __call__(
        self, x: Float[Array, "S D"], edit: Float[Array, "F"] | None, *, axis: str | None
    ) -> tuple[Float[Array, "S D"], NeuronTap]:
        """Returns the output and the tap; over `axis`, each device has its own neurons."""
        product, tap = self.neurons(x, edit)
        return summed(self.down, product, axis), tap
