"""Rotary position embedding (Su et al. 2021) and the ways to stretch it to longer texts.

Axis legend: S token slots of a batch, half: pairs of dimensions that are turned.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from sparcom_jax.models.config import Rope


class Rotary(NamedTuple):
    """Cosine and sine of the angle of each position and pair of dimensions."""

    cos: Float[Array, "*n S half"]
    sin: Float[Array, "*n S half"]


def rotary(position: Int[Array, "S"], length: Int[Array, "S"], rope: Rope) -> Rotary:
    """The angles of all slots.

    Args:
      position: position of each slot in its text.
      length: length of the text that each slot belongs to; it decides where `dynamic` and `longrope` stretch.
      rope: which kind, and its constants.
    """
    frequency: Float[Array, "*S half"]
    if rope.kind == "dynamic":
        ratio = jnp.maximum(length, rope.original_positions).astype(jnp.float32) / rope.original_positions
        theta = rope.theta * (rope.factor * ratio - (rope.factor - 1.0)) ** (rope.size / (rope.size - 2))
        frequency = 1.0 / theta[:, None] ** _exponents(rope)
    elif rope.kind == "longrope":
        short, long = (
            jnp.asarray(1.0 / (np.asarray(factors, np.float32) * np.float32(rope.theta) ** _exponents(rope)))
            for factors in (rope.short_factors, rope.long_factors)
        )
        frequency = jnp.where((length > rope.original_positions)[:, None], long, short)
    else:
        frequency = jnp.asarray(frequencies(rope))
    angle = position[:, None].astype(jnp.float32) * frequency
    return Rotary(jnp.cos(angle) * rope.scale, jnp.sin(angle) * rope.scale)


def frequencies(rope: Rope) -> Float32[np.ndarray, "half"]:
    """Angle per position of each pair of dimensions, in radians, where it is the same for every text.

    Sources: Su et al. 2021 for `default`, Peng et al. 2023 for `yarn`, Llama 3.1's published code for `llama3`.
    """
    frequency = 1.0 / np.float32(rope.theta) ** _exponents(rope)
    if rope.kind == "linear":
        return frequency / np.float32(rope.factor)
    if rope.kind == "llama3":
        turns = rope.original_positions * frequency / (2 * np.pi)
        kept = np.clip((turns - rope.low) / (rope.high - rope.low), 0.0, 1.0)
    elif rope.kind == "yarn":
        start, stop = (_dimension(rope, turns) for turns in (rope.high, rope.low))
        if rope.whole_dimensions:
            start, stop = np.floor(start), np.ceil(stop)
        start, stop = max(start, 0.0), min(stop, rope.size - 1.0)
        stop += 0.001 * (start == stop)
        kept = 1.0 - np.clip((np.arange(rope.size // 2) - start) / (stop - start), 0.0, 1.0)
    else:
        return frequency
    mixed: np.ndarray = kept * frequency + (1.0 - kept) * frequency / rope.factor
    return mixed.astype(np.float32)


def rotate(x: Float[Array, "S heads H"], angles: Rotary) -> Float[Array, "S heads H"]:
    """Turns the pairs (h, h + half) of each head by angles that grow with the position; further dimensions stay."""
    half = angles.cos.shape[-1]
    cos, sin = (part[:, None, :].astype(x.dtype) for part in angles)
    first, second, rest = jnp.split(x, [half, 2 * half], axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)


def neighbours_to_halves(x: Float[Array, "*S H"]) -> Float[Array, "*S H"]:
    """Reorders dimensions so that the pairs (2h, 2h + 1) become the pairs (h, h + H/2) that `rotate` turns."""
    return jnp.moveaxis(x.reshape(*x.shape[:-1], -1, 2), -1, -2).reshape(x.shape)


def text_lengths(position: Int[Array, "S"], row: Int[Array, "S"], rows: int) -> Int[Array, "S"]:
    """Length of the text that each slot belongs to."""
    length = jax.ops.segment_max(position + 1, row, rows + 1, indices_are_sorted=True)
    return length[row]


def _exponents(rope: Rope) -> Float32[np.ndarray, "half"]:
    return np.arange(0, rope.size, 2, dtype=np.float32) / np.float32(rope.size)


def _dimension(rope: Rope, turns: float) -> float:
    """The pair of dimensions that makes so many turns within the original context."""
    return float(rope.size * np.log(rope.original_positions / (turns * 2 * np.pi)) / (2 * np.log(rope.theta)))
