"""Multi-head latent attention (DeepSeek-AI 2024).

Axis legend: S token slots of a batch, D model width, N heads, H size of a query or key, O size of a value.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from sparcom_jax.models.collectives import replicated_input
from sparcom_jax.models.config import DecoderConfig, Latent, Mixer
from sparcom_jax.models.layers import Linear, Norm
from sparcom_jax.models.mixers.attention import Attention
from sparcom_jax.models.mixers.key_values import KeyValues
from sparcom_jax.models.rope import Rotary, neighbours_to_halves, rotate

LATENT_EPSILON = 1e-6
"""DeepSeek's norms within the attention do not heed the config's epsilon."""


class LatentAttention(Attention):
    """Multi-head latent attention (DeepSeek-AI 2024); a query and a key are a plain part and a turned part."""

    def __init__(self, config: DecoderConfig, latent: Latent, rngs: nnx.Rngs) -> None:
        turned = config.head_size - latent.plain_size
        queries = config.heads * config.head_size
        if latent.query_rank:
            self.q_a = Linear(config.width, latent.query_rank, bias=config.qkv_bias, rngs=rngs)
            self.q_norm = Norm(latent.query_rank, LATENT_EPSILON, config.norm)
            self.q_b = Linear(latent.query_rank, queries, bias=False, rngs=rngs)
        else:
            self.q = Linear(config.width, queries, bias=False, rngs=rngs)
        self.kv_a = Linear(config.width, latent.rank + turned, bias=config.qkv_bias, rngs=rngs)
        self.kv_norm = Norm(latent.rank, LATENT_EPSILON, config.norm)
        keys_and_values = config.heads * (latent.plain_size + latent.value_size)
        self.kv = Linear(latent.rank, keys_and_values, bias=False, rngs=rngs)
        self.o = Linear(config.heads * latent.value_size, config.width, bias=config.output_bias, rngs=rngs)
        self.config = config
        self.latent = latent

    @staticmethod
    def empty_state(
        config: DecoderConfig, mixer: Mixer, sizes: tuple[int, int, int], dtype: jnp.dtype, parts: int
    ) -> KeyValues:
        """As `Attention.empty_state`: the full keys and values, so that no product is computed again in each step."""
        assert isinstance(mixer, Latent)
        shape = (*sizes, config.heads // parts)
        return KeyValues(jnp.zeros((*shape, config.head_size), dtype), jnp.zeros((*shape, mixer.value_size), dtype))

    def project(
        self, x: Float[Array, "S D"], angles: Rotary, axis: str | None
    ) -> tuple[Float[Array, "S N H"], Float[Array, "S N H"], Float[Array, "S N O"]]:
        """Queries, keys and values of every head, read off their latents."""
        latent = self.latent
        # The latents are whole on every device, what is made of them is split by heads.
        read = replicated_input(self.q_norm(self.q_a(x)) if latent.query_rank else x, axis)
        q = (self.q_b if latent.query_rank else self.q)(read).reshape(len(x), -1, self.config.head_size)
        compressed = self.kv_a(x)
        normed = replicated_input(self.kv_norm(compressed[:, : latent.rank]), axis)
        kv = self.kv(normed).reshape(len(x), q.shape[1], -1)
        turned_q = rotate(neighbours_to_halves(q[..., latent.plain_size :]), angles)
        turned_k = rotate(neighbours_to_halves(compressed[:, None, latent.rank :]), angles)
        turned_k = jnp.broadcast_to(replicated_input(turned_k, axis), turned_q.shape)
        q = jnp.concatenate([q[..., : latent.plain_size], turned_q], axis=-1)
        k = jnp.concatenate([kv[..., : latent.plain_size], turned_k], axis=-1)
        return q, k, kv[..., latent.plain_size :]
