"""The negative log likelihood of next tokens, without the logits of a whole vocabulary at a time.

Axis legend: S token slots of a batch, D model width, V vocabulary, W words at a time.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Float32, Int

from sparcom_jax.models.decoder import Decoder
from sparcom_jax.models.layers import squash

WORDS = 4096
"""Words whose logits are there at a time: those of a whole vocabulary would be written to memory and read again."""


class Head(NamedTuple):
    """How logits are read off the output of the final norm.

    Attributes:
      axis: of the matrix that words are on: 0 where it is the embedding, 1 for a head of its own.
      words: W, at a time.
      vocabulary: V.
      cap: as in `squash`.
    """

    axis: int
    words: int
    vocabulary: int
    cap: float

    def starts(self) -> Int[Array, "_"]:
        """The first new word of each part; those of the last part overlap with the ones before."""
        return jnp.arange(0, self.vocabulary, self.words)

    def part(self, matrix: Float[Array, "_ _"], first: Int[Array, ""]) -> tuple[Float[Array, "_ _"], Int[Array, ""]]:
        """The part of the matrix that has these words, and where it starts."""
        start = jnp.minimum(first, self.vocabulary - self.words)
        return jax.lax.dynamic_slice_in_dim(matrix, start, self.words, self.axis), start

    def logits(self, states: Float[Array, "S D"], part: Float[Array, "_ _"]) -> Float32[Array, "S W"]:
        """Logits of a part."""
        raw = states @ part if self.axis else jnp.einsum("SD,WD->SW", states, part)
        return squash(raw, self.cap).astype(jnp.float32)


def next_token_nll(
    decoder: Decoder, hidden: Float[Array, "S D"], target: Int[Array, "S"], scored: Bool[Array, "S"]
) -> Float[Array, "S"]:
    """Negative log likelihood of the target of each slot that is scored; 0 at others.

    Logits of a large vocabulary cost as much as the model. Slots that are scored come first, and what is beyond them is
    left out, but for the few that fill up one of the sizes that are compiled. Of the vocabulary, `WORDS` are computed
    at a time, with the sum so far (an online softmax, Milakov and Gimelshein 2018).
    """
    order = jnp.argsort(~scored, stable=True)
    states, targets, wanted = hidden[order], target[order], scored[order]
    config = decoder.config
    matrix, axis = (decoder.embed.embedding, 0) if config.tied_embeddings else (decoder.head.kernel, 1)
    head = Head(axis, min(WORDS, config.vocab_size), config.vocab_size, config.logit_cap)

    def computed(slots: int) -> Float[Array, "S"]:
        nll = jnp.where(wanted[:slots], _nll(states[:slots], matrix[...], targets[:slots], head), 0.0)
        return jnp.zeros(len(wanted)).at[:slots].set(nll)

    sizes = _sizes(len(wanted))
    number = jnp.searchsorted(jnp.asarray([0, *sizes]), jnp.sum(wanted))
    nothing = partial(jnp.zeros, len(wanted))
    found = jax.lax.switch(number, [nothing, *(partial(computed, slots) for slots in sizes)])
    return jnp.zeros(len(wanted)).at[order].set(found)


def _sizes(slots: int) -> list[int]:
    """How many slots may be scored at once: finer where they are few, as those of responses are."""
    fine, coarse = slots // 16, slots // 4
    return [*range(fine, slots // 2, fine), *range(slots // 2, slots + 1, coarse)]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _nll(
    states: Float[Array, "S D"], matrix: Float[Array, "_ _"], target: Int[Array, "S"], head: Head
) -> Float32[Array, "S"]:
    return _forward(states, matrix, target, head)[0]


def _forward(
    states: Float[Array, "S D"], matrix: Float[Array, "_ _"], target: Int[Array, "S"], head: Head
) -> tuple[Float32[Array, "S"], tuple[Array, ...]]:
    def add(found: tuple[Array, Array, Array], first: Int[Array, ""]) -> tuple[tuple[Array, Array, Array], None]:
        most, total, chosen = found
        part, start = head.part(matrix, first)
        logits = head.logits(states, part)
        at = target - start
        here = jnp.take_along_axis(logits, jnp.clip(at, 0, head.words - 1)[:, None], axis=1)[:, 0]
        chosen = jnp.where((at >= 0) & (at < head.words), here, chosen)
        if head.vocabulary % head.words:
            logits = jnp.where(start + jnp.arange(head.words) >= first, logits, -jnp.inf)
        above = jnp.maximum(most, logits.max(axis=1))
        total = total * jnp.exp(most - above) + jnp.exp(logits - above[:, None]).sum(axis=1)
        return (above, total, chosen), None

    slots = len(target)
    none = jnp.full(slots, -jnp.inf), jnp.zeros(slots), jnp.zeros(slots)
    (most, total, chosen), _ = jax.lax.scan(add, none, head.starts())
    whole = most + jnp.log(total)
    return whole - chosen, (states, matrix, target, whole)


def _backward(head: Head, kept: tuple[Array, ...], of_nll: Float32[Array, "S"]) -> tuple[Array, Array, None]:
    """The gradient of softmax less target, part by part.

    Autodiff of the scan would add up a gradient of the whole matrix in every part.
    """
    states, matrix, target, whole = kept

    def add(found: tuple[Array, Array], first: Int[Array, ""]) -> tuple[tuple[Array, Array], None]:
        of_states, of_matrix = found
        part, start = head.part(matrix, first)
        word = start + jnp.arange(head.words)
        logits, back = jax.vjp(head.logits, states, part)
        of_logits = jnp.exp(logits - whole[:, None]) - (word == target[:, None]).astype(jnp.float32)
        if head.vocabulary % head.words:
            of_logits = jnp.where(word >= first, of_logits, 0.0)
        mine, of_part = back(of_logits * of_nll[:, None])
        before = jax.lax.dynamic_slice_in_dim(of_matrix, start, head.words, head.axis)
        of_matrix = jax.lax.dynamic_update_slice_in_dim(of_matrix, before + of_part, start, head.axis)
        return (of_states + mine.astype(jnp.float32), of_matrix), None

    none = jnp.zeros(states.shape, jnp.float32), jnp.zeros_like(matrix)
    (of_states, of_matrix), _ = jax.lax.scan(add, none, head.starts())
    return of_states.astype(states.dtype), of_matrix, None


_nll.defvjp(_forward, _backward)
