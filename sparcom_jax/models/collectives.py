"""Sums over the devices that share a model, with the right gradients (f and g of Shoeybi et al. 2019).

A value is either replicated, and so is its gradient; or each device has a part of it, and the gradient of that part.
What leads from the one to the other are the two functions here, each the transpose of the other. Without them gradients
inside `jax.shard_map(..., check_vma=False)` are too large: there, the transpose of a psum is a psum, which adds up what
every device has already.

Gradients are right inside the `shard_map`, of a loss that every device computes alike; not from outside of it.
"""

from functools import partial

import jax
from jaxtyping import Array, Float


def sum_over(x: Float[Array, "*n"], axis: str | None) -> Float[Array, "*n"]:
    """The sum over a mesh axis of what each device has; None where the model is on one device.

    Backward, each device has the gradient already.
    """
    return x if axis is None else _sum(x, axis)


def replicated_input(x: Float[Array, "*n"], axis: str | None) -> Float[Array, "*n"]:
    """A replicated value, or parameter, where it enters what each device along a mesh axis computes for its own part.

    Backward, the gradient is the sum over the devices.
    """
    return x if axis is None else _same(x, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _sum(x: Float[Array, "*n"], axis: str) -> Float[Array, "*n"]:
    return jax.lax.psum(x, axis)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _same(x: Float[Array, "*n"], axis: str) -> Float[Array, "*n"]:
    del axis
    return x


_sum.defvjp(lambda x, axis: (_sum(x, axis), None), lambda axis, _, y: (_same(y, axis),))
_same.defvjp(lambda x, axis: (x, None), lambda axis, _, y: (_sum(y, axis),))
