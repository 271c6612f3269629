"""How much more often a unit is active in a category than in the rest: mean difference of p, with Welch's t.

Axis legend: I instructions, C categories, U units.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, UInt16

from sparcom_jax.select.sample import Sample

NEUTRAL = 0.0


def difference(counts: UInt16[np.ndarray, "I U"], sample: Sample) -> Float32[np.ndarray, "3 C U"]:
    """Mean p of the category less mean p of all others, and Welch's t of it.

    Where length is controlled, both means are taken at the same length: p = mean of its side + b (x - mean x of its
    side), with x = ln T and one slope b for both sides by least squares (analysis of covariance), and the slope's own
    uncertainty is part of the deviation. Otherwise b = 0, and t is that of Welch (1947, Biometrika 34:28).

    Args:
      counts: of the instructions of the sample, in its order.
      sample: the instructions.

    Returns:
      The difference; t, 0 where nothing varies or a side has less than two instructions; and the degrees of freedom.
    """
    x = np.log(sample.tokens).astype(np.float32)
    x = (x - x.mean()) if sample.control_length else np.zeros_like(x)
    return np.asarray(_difference(counts, sample.tokens.astype(np.float32), x, sample.members))


@jax.jit
def _difference(
    counts: UInt16[Array, "I U"],
    tokens: Float32[Array, "I"],
    x: Float32[Array, "I"],
    members: Float32[Array, "C I"],
) -> Float32[Array, "3 C U"]:
    frequency = counts.astype(jnp.float32) / tokens[:, None]
    frequency -= frequency.mean(axis=0)  # changes no difference, and leaves small squares to be subtracted
    own_size = members.sum(axis=1, keepdims=True)
    size = jnp.stack([own_size, own_size.sum(axis=0) - own_size])  # [2, C, 1]: of the category, and of the rest
    safe = jnp.maximum(size, 1)

    def total(weights: Float32[Array, "C I"], values: Float32[Array, "I #U"]) -> Float32[Array, "2 C #U"]:
        one = jnp.matmul(weights, values, precision=jax.lax.Precision.HIGHEST)
        return jnp.stack([one, one.sum(axis=0) - one])

    mean, mean_x = total(members, frequency) / safe, total(members, x[:, None]) / safe
    spread_x = total(members, x[:, None] ** 2) - size * mean_x**2
    squares = total(members, frequency**2) - size * mean**2
    products = total(members * x, frequency) - size * mean_x * mean
    all_x = spread_x.sum(axis=0)
    slope = products.sum(axis=0) / jnp.where(all_x > 0, all_x, jnp.inf)
    residual = jnp.maximum(squares - 2 * slope * products + slope**2 * spread_x, 0)
    apart = mean_x[0] - mean_x[1]
    score = mean[0] - mean[1] - slope * apart
    freedom = jnp.maximum(size - 1, 1)
    parts = residual / (safe * freedom)
    rest = jnp.maximum(size.sum(axis=0) - 3, 1)
    of_slope = residual.sum(axis=0) / rest * apart**2 / jnp.where(all_x > 0, all_x, jnp.inf)
    variance = parts.sum(axis=0) + of_slope
    sound = (variance > 0) & (size.min(axis=0) > 1)
    # Welch and Satterthwaite's, with the slope's as one part more.
    degrees = variance**2 / jnp.where(sound, (parts**2 / freedom).sum(axis=0) + of_slope**2 / rest, 1)
    t = jnp.where(sound, score * jax.lax.rsqrt(jnp.where(sound, variance, 1)), 0)
    return jnp.stack([score, t, jnp.where(sound, degrees, 1)])
