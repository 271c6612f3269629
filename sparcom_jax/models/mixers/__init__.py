"""What layers read other tokens with: a file for each kind of mixer, with the state that it keeps in the cache."""

from typing import Any

import jax.numpy as jnp

from sparcom_jax.models.config import DecoderConfig, GroupedQuery, Latent, Mixer
from sparcom_jax.models.mixers.attention import Attention
from sparcom_jax.models.mixers.latent import LatentAttention

Cache = tuple[Any, ...]
"""What the texts of a batch have left in the mixers: a state for each of `DecoderConfig.mixers`, of all its layers."""


def mixer_of(mixer: Mixer) -> type[Attention]:
    """The module of a kind of mixer."""
    return {GroupedQuery: Attention, Latent: LatentAttention}[type(mixer)]


def empty_cache(config: DecoderConfig, rows: int, positions: int, dtype: jnp.dtype, parts: int = 1) -> Cache:
    """A cache that nothing was written into.

    Args:
      config: the model.
      rows: texts R.
      positions: C, tokens that a text can have.
      dtype: of the parameters.
      parts: over how many devices the heads are sharded.
    """
    kinds = [layer.structure.mixer for layer in config.layers]
    return tuple(
        mixer_of(mixer).empty_state(config, mixer, (kinds.count(mixer), rows, positions), dtype, parts)
        for mixer in config.mixers
    )
