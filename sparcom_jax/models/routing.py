"""Which experts a token is routed to, and where its copies lie once they are sorted by expert.

Axis legend: S token slots of a batch, E experts, K experts per token, M entries of the dispatch.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sparcom_jax.models.config import Experts


class Dispatch(NamedTuple):
    """Where each routed token lies when the tokens are sorted by expert.

    Attributes:
      slot: token slot of each entry; S where the entry is unused.
      expert: expert of each entry, not falling.
      entry: the entry of each token and choice; M for padding.
      tokens: how many tokens each expert has.
    """

    slot: Int[Array, "M"]
    expert: Int[Array, "M"]
    entry: Int[Array, "S K"]
    tokens: Int[Array, "E"]


FORCED_ABOVE = 0.01
"""How far the log probability of an expert that is forced lies above the greatest of all."""


def route(
    logits: Float[Array, "S E"],
    experts: Experts,
    valid: Bool[Array, "S"],
    keep: Bool[Array, "#S E"] | None = None,
    forced: Bool[Array, "#S E"] | None = None,
) -> tuple[Int[Array, "S K"], Float[Array, "S K"]]:
    """Chooses the experts of each token: softmax in float32, then the K largest (Shazeer et al. 2017).

    Where the experts form groups, only those of the groups with the largest members are eligible (DeepSeek-AI 2024).

    Args:
      logits: router logits.
      experts: how many are chosen, and how they are weighted.
      valid: False for padding, which is routed nowhere.
      keep: False for experts that may not be chosen, whose logits become minus infinity; None where all may.
      forced: True for experts that must be chosen, at most K: their log probability becomes a little more than the
        greatest (SteerMoE, arXiv 2509.09660), and their group is no hindrance; None where none must.

    Returns:
      The chosen experts (E for padding) and their weights (0 for padding).
    """
    if keep is not None:
        logits = jnp.where(keep, logits, -jnp.inf)
    scores = logits.astype(jnp.float32)
    if forced is not None:
        scores = jax.nn.log_softmax(scores, axis=-1)
        scores = jnp.where(forced, jnp.max(scores, axis=-1, keepdims=True) + FORCED_ABOVE, scores)
    share = jax.nn.softmax(scores, axis=-1)
    if experts.groups > 1:
        grouped = share.reshape(len(share), experts.groups, -1)
        _, best = jax.lax.top_k(jnp.max(grouped, axis=-1), experts.groups_per_token)
        eligible = jnp.any(best[:, :, None] == jnp.arange(experts.groups), axis=1)
        within = jnp.where(eligible[:, :, None], grouped, 0.0).reshape(share.shape)
        share = within if forced is None else jnp.where(forced, share, within)
    weight, chosen = jax.lax.top_k(share, experts.per_token)
    if experts.normalize:
        weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
    weight = weight * experts.scale
    chosen = jnp.where(valid[:, None], chosen, logits.shape[-1])
    return chosen, jnp.where(valid[:, None], weight, 0.0).astype(logits.dtype)


def dispatch(chosen: Int[Array, "S K"], experts: int, block: int, spare: int = 0) -> Dispatch:
    """Sorts the routed tokens by expert; each expert's entries start at a multiple of `block`.

    Args:
      chosen: experts of each token; `experts` for padding.
      experts: E.
      block: entries are padded to a multiple of this per expert; 1 packs them densely.
      spare: unused blocks at the end.

    Returns:
      A dispatch of ceil(S K / block) + E + `spare` blocks of `block` entries (exactly S K entries where `block` is 1).
    """
    slots, per_token = chosen.shape
    flat = chosen.reshape(-1)
    routed = flat.size
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.zeros(experts + 1, jnp.int32).at[flat].add(1)
    padded = -(-sizes // block) * block
    starts = jnp.cumsum(padded) - padded
    sorted_starts = jnp.cumsum(sizes) - sizes
    entries = routed if block == 1 else (-(-routed // block) + experts + spare) * block
    by_rank = flat[order]
    position = starts[by_rank] + jnp.arange(routed, dtype=jnp.int32) - sorted_starts[by_rank]
    position = jnp.where(by_rank < experts, position, entries)
    slot = jnp.full(entries, slots, jnp.int32).at[position].set(order.astype(jnp.int32) // per_token, mode="drop")
    ends = (starts + padded)[:experts]
    expert = jnp.searchsorted(ends, jnp.arange(entries, dtype=jnp.int32), side="right").astype(jnp.int32)
    entry = jnp.zeros(routed, jnp.int32).at[order].set(position.astype(jnp.int32))
    return Dispatch(slot, jnp.minimum(expert, experts - 1), entry.reshape(slots, per_token), sizes[:experts])
