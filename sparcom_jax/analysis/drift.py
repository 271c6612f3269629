"""What tuning changed in frequencies: neuron activation p and expert routing f, per instruction and layer.

Both runs hold the same instructions and the same units. Axes: I instructions, L layers, U units of a layer, E experts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Float64, UInt16, UInt32

from sparcom_jax.analysis.overlap import BLOCK_VALUES
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run


@jax.jit
def _changes(base: UInt16[Array, "I U"], tuned: UInt16[Array, "I U"], base_tokens: UInt32[Array, "I"],
             tuned_tokens: UInt32[Array, "I"]) -> Float32[Array, "2 I"]:  # fmt: skip
    # n/T - m/S = (nS - mT) / (ST): whole numbers below 2**32 up to the division, so equal frequencies differ by 0.
    after = tuned.astype(jnp.uint32) * base_tokens[:, None]
    before = base.astype(jnp.uint32) * tuned_tokens[:, None]
    size = (jnp.maximum(after, before) - jnp.minimum(after, before)).astype(jnp.float32)
    change = jnp.where(after >= before, size, -size)
    scale = base_tokens.astype(jnp.float32) * tuned_tokens.astype(jnp.float32)
    return jnp.stack([size, change]).mean(axis=2) / scale[None, :]


def frequency_drift(base: Run, tuned: Run, group: str, advance: Callable[[int], None]
                    ) -> tuple[Float64[np.ndarray, "I L"], Float64[np.ndarray, "I L"]]:  # fmt: skip
    """Mean over the units of a layer of |p_tuned - p_base| and of p_tuned - p_base, streamed.

    Args:
      base: one run.
      tuned: the other.
      group: name of a neuron group.
      advance: told of every layer that is done.
    """
    counts = base.count(group), tuned.count(group)
    tokens = [np.maximum(run.token_count, 1) for run in (base, tuned)]
    rows, layers, *sizes = counts[0].shape
    step = max(BLOCK_VALUES // int(np.prod(sizes)), 1)
    drift = np.empty((2, rows, layers), np.float64)
    for layer in range(layers):
        for start in range(0, rows, step):
            part = slice(start, min(start + step, rows))
            reads = [count[part, layer].read() for count in counts]
            blocks = [finished(read, base.location).reshape(part.stop - start, -1) for read in reads]
            drift[:, part, layer] = np.asarray(_changes(*blocks, *(T[part] for T in tokens)))
        advance(1)
    return drift[0], drift[1]


@jax.jit
def _total_variation(base: Float32[Array, "*rows E"], tuned: Float32[Array, "*rows E"]) -> Float32[Array, "*rows"]:
    return jnp.abs(tuned - base).sum(axis=-1) / 2


def routing_distribution(run: Run) -> Float32[np.ndarray, "I L E"]:
    """Frequencies f of the routed experts, normalised to sum 1 in every layer; 0 where nothing was routed."""
    selected = run.read("routed/selected_count").astype(np.float32)
    return selected / np.maximum(selected.sum(axis=-1, keepdims=True), 1)


def total_variation(base: Float32[np.ndarray, "*rows E"], tuned: Float32[np.ndarray, "*rows E"]
                    ) -> Float64[np.ndarray, "*rows"]:  # fmt: skip
    """Total variation distance (0 to 1) between distributions over experts: half the summed differences."""
    return np.asarray(_total_variation(base, tuned)).astype(np.float64)
