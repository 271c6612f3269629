"""What the kernels of a GPU have in common."""

from typing import Any

import jax
import jax.numpy as jnp


def exact(dtype: Any) -> jax.lax.Precision:
    """What makes the products of a dtype exact: of 16 bits they always are, and some kernels refuse to hear of more."""
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype).itemsize > 2 else jax.lax.Precision.DEFAULT
