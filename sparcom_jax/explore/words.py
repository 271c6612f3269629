"""Which tokens the output of a neuron makes more and less likely: its down column through final norm and output head.

The logit lens (nostalgebraist 2020) of one direction. Axis legend: n neurons, D model width, V vocabulary.
"""

from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int64

from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.stored import stored_params
from sparcom_jax.units.groups import Group
from sparcom_jax.units.parameters import unit_slices

AT_ONCE = 32
"""Neurons whose logits are computed at once."""

Words = list[tuple[int, float]]
"""Tokens by their ids, and by how many standard deviations over the vocabulary their logits are moved."""


def output_words(
    model: PlacedModel, group: Group, index: Int64[np.ndarray, "n dims"], count: int, vocabulary: int
) -> list[tuple[Words, Words]]:
    """The tokens whose logits each neuron raises most, and lowers most, where it is active.

    What a neuron writes is a multiple of its down column; where the model has a norm behind the MLP, of what that norm
    makes of it. How far logits move depends on the residual stream, so that they are given in standard deviations.

    Args:
      model: the model, which has an output head.
      group: the neurons' group.
      index: their places in its arrays.
      count: tokens of each kind.
      vocabulary: token ids from here on are no tokens.

    Returns:
      Of each neuron what it raises, from most, and what it lowers, from most.
    """
    direction = np.concatenate([_down(model, group, one[None]) for one in index])
    # Only a norm behind the MLP is one of the layer's own.
    layers = [group.layers[place] if model.config.post_norm else None for place in index[:, 0].tolist()]
    moved = _moved(model.config)
    found: dict[int, tuple[Words, Words]] = {}
    for layer in dict.fromkeys(layers):
        rows = [row for row, of in enumerate(layers) if of == layer]
        for start in range(0, len(rows), AT_ONCE):
            part = rows[start : start + AT_ONCE]
            padded = np.resize(part, AT_ONCE)  # one shape is compiled
            z = np.asarray(moved(model.params, direction[padded], layer))[: len(part), :vocabulary]
            for row, values in zip(part, z, strict=True):
                order = np.argsort(-values, kind="stable")
                found[row] = _told(order[:count], values), _told(order[::-1][:count], values)
    return [found[row] for row in range(len(index))]


def _told(tokens: Int64[np.ndarray, "k"], values: Float32[np.ndarray, "V"]) -> Words:
    return [(int(token), float(values[token])) for token in tokens]


def _down(model: PlacedModel, group: Group, index: Int64[np.ndarray, "1 dims"]) -> Float32[np.ndarray, "1 D"]:
    """The down column of a neuron."""
    layer = group.layers[int(index[0, 0])]
    (down,) = (one for one in unit_slices(model.config, group.name, layer, index[:, 1:]) if one.role == "down")
    stored = stored_params(model.config)[down.path]
    leaf: Any = jax.tree.leaves(model.params)[stored.leaf]
    parameter = leaf if stored.repeat is None else leaf[stored.repeat]
    return np.asarray(parameter[(*down.index, down.at[0])], np.float32)[None]


@lru_cache(maxsize=8)
def _moved(config: DecoderConfig) -> Any:
    """The compiled function of (params, directions `[n, D]`, layer) that gives standard deviations `[n, V]`."""

    def moved(params: Params, direction: Float[Array, "n D"], layer: int | None) -> Float32[Array, "n V"]:
        with jax.default_matmul_precision("highest"):
            decoder = bind(config, params)
            written = direction if layer is None else decoder.block(layer).mlp_post_norm(direction)
            # A LayerNorm adds a bias, which moves logits whatever is written.
            with_it, without = (decoder.logits(decoder.norm(x)) for x in (written, jnp.zeros_like(written)))
            change = with_it.astype(jnp.float32) - without.astype(jnp.float32)
            spread = jnp.std(change, axis=1, keepdims=True)
            return (change - jnp.mean(change, axis=1, keepdims=True)) / jnp.where(spread > 0, spread, 1)

    return jax.jit(moved, static_argnums=2)
