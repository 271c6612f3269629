"""Where a forward pass ceases to be numbers: an overflow is refused by name, since NaN > 0 would count as silence.

A forward pass has points, in order: the residual stream as attention and as MLP of each layer read it, two for a layer
(`Output.finite`); what comes of the last layer; the logits. What is not finite stays so in the stream of its token, and
reaches only later tokens of the same text. So the layer before the first such point is where it arose.

Axis legend: S token slots of a batch, R texts of a batch, L layers.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32

from sparcom_jax.errors import InputError, first_of

ALL_FINITE = np.iinfo(np.int32).max
"""The point of a text of which every number is finite."""


def all_finite(x: Float[Array, "*n values"]) -> Bool[Array, "*n"]:
    """Whether all values of the last axis are finite."""
    return jnp.all(jnp.isfinite(x), axis=-1)


def first_fault(finite: Bool[Array, "points S"], row: Int[Array, "S"], rows: int) -> Int32[Array, "R"]:
    """The first point at which a token of a text is not finite.

    Args:
      finite: of each point and slot.
      row: which text each slot belongs to, not falling; padding is no text.
      rows: texts R.
    """
    first = jnp.where(jnp.all(finite, axis=0), ALL_FINITE, jnp.argmin(finite, axis=0).astype(jnp.int32))
    return jax.ops.segment_min(first, row, rows, indices_are_sorted=True)


def place_of(fault: int, layers: int) -> str:
    """Where the numbers that are not finite at a point arose, in a model of so many layers."""
    layer = (fault - 1) // 2
    if layer == layers:
        return "the output head"
    return f"layer {layer}" if layer >= 0 else "the embedding"


def require_finite(
    fault: Int32[np.ndarray, "R"],
    texts: Sequence[int],
    names: Sequence[str],
    layers: int,
    params: Any,
    flag: str,
    when: str = "",
) -> None:
    """Refuses texts with numbers that are not finite.

    Args:
      fault: the first fault of each text of a batch.
      texts: which texts these are; the batch can hold more.
      names: what all texts are called.
      layers: layers L of the model.
      params: the parameters, in the dtype that the forward pass ran in.
      flag: the flag that chooses it.
      when: what was done to the model.

    Raises:
      InputError: it names the texts, the layer of each, and what to try.
    """
    pairs = sorted(zip(texts, fault[: len(texts)].tolist(), strict=True))
    if faults := [(names[text], one) for text, one in pairs if one != ALL_FINITE]:
        dtype = str(jax.tree.leaves(params)[0].dtype)
        listed = first_of([f"{name} ({place_of(one, layers)})" for name, one in faults])
        wider = {"float16": "bfloat16 or float32", "bfloat16": "float32"}.get(dtype)
        advice = f"try {flag}={wider}" if wider else "the weights themselves lead there"
        raise InputError(f"not finite in {dtype}{when}: instruction {listed}; {advice}")
