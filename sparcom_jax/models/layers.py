"""Embedding, norms and the MLP.

Axis legend: S token slots of a batch, D model width, V vocabulary, F neurons, A inputs of a projection.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Float32, Int

from sparcom_jax.models.collectives import replicated_input, sum_over
from sparcom_jax.models.config import Activation, NormKind
from sparcom_jax.models.edits import NeuronEdit
from sparcom_jax.models.taps import NeuronTap

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "relu": jax.nn.relu,
}


class Linear(nnx.Linear):
    """A projection, to which a product of low rank may be added while it is trained so."""

    low_rank: "LowRank | None" = None

    def __init__(self, inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs) -> None:
        super().__init__(inputs, outputs, use_bias=bias, rngs=rngs)

    def add(self, a: Float[Array, "A r"], b: Float[Array, "r B"], scale: float) -> None:
        """Adds `scale * a @ b` to the kernel, without making that."""
        self.low_rank = LowRank(a, b, scale)

    def product(self, x: Float[Array, "*S A"]) -> Float[Array, "*S B"]:
        """The projection without its bias."""
        y = x @ self.kernel[...]
        return y if self.low_rank is None else y + self.low_rank(x)

    def __call__(self, x: Float[Array, "*S A"]) -> Float[Array, "*S B"]:
        """The projection."""
        y = super().__call__(x)
        return y if self.low_rank is None else y + self.low_rank(x)


class LowRank(nnx.Module):
    """`scale * x @ a @ b`."""

    def __init__(self, a: Float[Array, "A r"], b: Float[Array, "r B"], scale: float) -> None:
        self.a, self.b, self.scale = nnx.Param(a), nnx.Param(b), scale

    def __call__(self, x: Float[Array, "*S A"]) -> Float[Array, "*S B"]:
        """Applies it, in the dtype of x."""
        low = x @ self.a[...].astype(x.dtype)
        return (low @ self.b[...].astype(x.dtype)) * jnp.asarray(self.scale, x.dtype)


def summed(linear: Linear, x: Float[Array, "S A"], axis: str | None) -> Float[Array, "S D"]:
    """Applies a projection whose inputs are sharded over a mesh axis: the parts are summed, then the bias is added.

    Args:
      linear: the projection; its kernel is this device's part.
      x: this device's part of the inputs.
      axis: the mesh axis; None where the model is on one device.
    """
    if axis is None:
        return linear(x)
    y = sum_over(linear.product(x), axis)
    return y if linear.bias is None else y + linear.bias[...]


def mean_square(x: Float[Array, "*S D"]) -> Float32[Array, "*S"]:
    """Mean of the squares of the last axis, in float32."""
    return jnp.mean(jnp.square(x.astype(jnp.float32)), axis=-1)


def finite(x: Float[Array, "S D"]) -> Bool[Array, "S"]:
    """Whether what a slot holds is finite, and its mean square, too: what a norm makes of it otherwise is no number.

    Where a norm reads x, the compiler finds both in one pass; anywhere, no cheaper one was measured on CPU.
    """
    return jnp.isfinite(mean_square(x))


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

    def __call__(
        self, x: Float[Array, "*S D"], *, width_axis: str | None = None, rows_axis: str | None = None
    ) -> Float[Array, "*S D"]:
        """Normalises the last axis.

        Args:
          x: what is normalised.
          width_axis: mesh axis over which the last axis of x is sharded, and so is the scale.
          rows_axis: mesh axis over which another axis of x is sharded; the scale is whole on each device.
        """
        high = x.astype(jnp.float32)
        if self.kind == "layer":
            high = high - jnp.mean(high, axis=-1, keepdims=True)
        square = mean_square(high)
        if width_axis is not None:
            square = replicated_input(sum_over(square, width_axis), width_axis) / jax.lax.axis_size(width_axis)
        # An infinite one would turn finite values into zeros, which nobody could tell from small ones.
        high = jnp.where(jnp.isinf(square)[..., None], jnp.nan, high * jax.lax.rsqrt(square + self.epsilon)[..., None])
        scale = replicated_input(self.scale[...], rows_axis)
        if self.kind == "rms":
            return high.astype(x.dtype) * scale
        high = high * (scale.astype(jnp.float32) + float(self.kind == "rms_plus_one"))
        if self.kind == "layer":
            high = high + replicated_input(self.bias[...], rows_axis).astype(jnp.float32)
        return high.astype(x.dtype)


def squash(x: Float[Array, "*n"], cap: float) -> Float[Array, "*n"]:
    """Squashes values into +-cap by a tanh; 0 leaves them as they are (Gemma 2)."""
    return cap * jnp.tanh(x / cap) if cap else x


class MLP(nnx.Module):
    """down_proj(act_fn(gate_proj(x)) * up_proj(x)), or down_proj(act_fn(gate_proj(x))) where it is not gated."""

    def __init__(
        self, width: int, neurons: int, activation: Activation, rngs: nnx.Rngs, *, bias: bool, gated: bool
    ) -> None:
        self.gate = Linear(width, neurons, bias=bias, rngs=rngs)
        if gated:
            self.up = Linear(width, neurons, bias=bias, rngs=rngs)
        self.down = Linear(neurons, width, bias=bias, rngs=rngs)
        self.activation = activation
        self.gated = gated

    def neurons(
        self, x: Float[Array, "S D"], edit: NeuronEdit, variant: Int[Array, "S"]
    ) -> tuple[Float[Array, "S F"], NeuronTap]:
        """Returns the input of down_proj, edited, and the tap, which shows the neurons as they are before the edit."""
        gate = ACTIVATIONS[self.activation](self.gate(x))
        product = gate * self.up(x) if self.gated else gate
        return edit.apply(product, variant), NeuronTap(gate, product)

    def __call__(
        self, x: Float[Array, "S D"], edit: NeuronEdit, variant: Int[Array, "S"], *, axis: str | None
    ) -> tuple[Float[Array, "S D"], NeuronTap]:
        """Returns the output and the tap; over `axis`, each device has its own neurons."""
        product, tap = self.neurons(replicated_input(x, axis), edit, variant)
        return summed(self.down, product, axis), tap
