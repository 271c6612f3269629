"""Routed experts: every token passes the experts that it is routed to, and no other; no token is dropped.

Axis legend: S token slots of a batch, D model width, E experts, K experts per token, F neurons of an expert,
M entries of the dispatch, B entries of a block, C entries of a piece: up to PIECE blocks of one expert.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sparcom_jax.models.config import Activation, Clamp, DecoderConfig, Experts
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.layers import ACTIVATIONS, MLP
from sparcom_jax.models.taps import LayerTaps, RoutedTap

MIN_BLOCK, MAX_BLOCK = 16, 128
PIECE = 6
"""The most blocks of an expert that go through one product."""


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


def route(
    logits: Float[Array, "S E"], experts: Experts, real: Bool[Array, "S"], keep: Bool[Array, "E"] | None
) -> tuple[Int[Array, "S K"], Float[Array, "S K"]]:
    """Chooses the experts of each token: softmax in float32, then the K largest (Shazeer et al. 2017).

    Where the experts form groups, only those of the groups with the largest members are eligible (DeepSeek-AI 2024).

    Args:
      logits: router logits.
      experts: how many are chosen, and how they are weighted.
      real: False for padding, which is routed nowhere.
      keep: False for experts that may not be chosen.

    Returns:
      The chosen experts (E for padding) and their weights (0 for padding).
    """
    if keep is not None:
        logits = jnp.where(keep, logits, -jnp.inf)
    share = jax.nn.softmax(logits.astype(jnp.float32), axis=-1)
    if experts.groups > 1:
        grouped = share.reshape(len(share), experts.groups, -1)
        _, best = jax.lax.top_k(jnp.max(grouped, axis=-1), experts.groups_per_token)
        eligible = jnp.any(best[:, :, None] == jnp.arange(experts.groups), axis=1)
        share = jnp.where(eligible[:, :, None], grouped, 0.0).reshape(share.shape)
    weight, chosen = jax.lax.top_k(share, experts.per_token)
    if experts.normalize:
        weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
    weight = weight * experts.scale
    chosen = jnp.where(real[:, None], chosen, logits.shape[-1])
    return chosen, jnp.where(real[:, None], weight, 0.0).astype(logits.dtype)


def dispatch(chosen: Int[Array, "S K"], experts: int, block: int) -> Dispatch:
    """Sorts the routed tokens by expert; each expert's entries start at a multiple of `block`.

    Args:
      chosen: experts of each token; `experts` for padding.
      experts: E.
      block: entries are padded to a multiple of this per expert; 1 packs them densely.

    Returns:
      A dispatch of ceil(S K / block) + E blocks of `block` entries and an unused piece, so that a piece can be read
      from any block on (exactly S K entries where `block` is 1).
    """
    slots, per_token = chosen.shape
    flat = chosen.reshape(-1)
    routed = flat.size
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.zeros(experts + 1, jnp.int32).at[flat].add(1)
    padded = -(-sizes // block) * block
    starts = jnp.cumsum(padded) - padded
    sorted_starts = jnp.cumsum(sizes) - sizes
    entries = routed if block == 1 else (-(-routed // block) + experts + PIECE) * block
    by_rank = flat[order]
    position = starts[by_rank] + jnp.arange(routed, dtype=jnp.int32) - sorted_starts[by_rank]
    position = jnp.where(by_rank < experts, position, entries)
    slot = jnp.full(entries, slots, jnp.int32).at[position].set(order.astype(jnp.int32) // per_token, mode="drop")
    ends = (starts + padded)[:experts]
    expert = jnp.searchsorted(ends, jnp.arange(entries, dtype=jnp.int32), side="right").astype(jnp.int32)
    entry = jnp.zeros(routed, jnp.int32).at[order].set(position.astype(jnp.int32))
    return Dispatch(slot, jnp.minimum(expert, experts - 1), entry.reshape(slots, per_token), sizes[:experts])


def pieces(plan: Dispatch, block: int) -> tuple[Int[Array, "P"], Int[Array, "P"], Int[Array, "P"]]:
    """Cuts the entries of each expert into pieces of at most PIECE blocks, in the order of the entries.

    Returns:
      Of each piece its expert, its first entry and how many blocks it has; 0 for pieces that are not needed, which
      begin at the unused end of the dispatch.
    """
    blocks = -(-plan.tokens // block)
    of_expert = -(-blocks // PIECE)
    ends = jnp.cumsum(of_expert)
    number = jnp.arange(-(-plan.entry.size // (PIECE * block)) + len(blocks), dtype=jnp.int32)
    expert = jnp.minimum(jnp.searchsorted(ends, number, side="right"), len(blocks) - 1)
    before = (number - (ends - of_expert)[expert]) * PIECE
    needed = number < ends[-1]
    size = jnp.where(needed, jnp.minimum(blocks[expert] - before, PIECE), 0)
    first = jnp.where(needed, (jnp.cumsum(blocks) - blocks)[expert] + before, len(plan.slot) // block - PIECE)
    return expert, first * block, size


def block_size(routed: int, experts: int) -> int:
    """Entries of a block, a power of two: about a quarter of what an expert has on average.

    On average half a block of each expert is padding; smaller blocks make more shapes of products to compile and to
    choose from.

    Args:
      routed: tokens times experts per token.
      experts: E of the model.
    """
    quarter = routed // (4 * experts)
    return min(max(1 << (quarter.bit_length() - 1) if quarter else 0, MIN_BLOCK), MAX_BLOCK)


class RoutedExperts(nnx.Module):
    """E gated MLPs of which each token passes K; weights are stacked on a leading expert axis.

    Where they are those of several layers, on an axis before it, `place` tells which layer is meant.
    """

    def __init__(self, width: int, experts: Experts, activation: Activation, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal(batch_axis=0)
        count, neurons = experts.count, experts.width
        self.gate = nnx.Param(init(rngs.params(), (count, width, neurons)))
        self.up = nnx.Param(init(rngs.params(), (count, width, neurons)))
        self.down = nnx.Param(init(rngs.params(), (count, neurons, width)))
        if experts.bias:
            self.gate_bias = nnx.Param(jnp.zeros((count, neurons)))
            self.up_bias = nnx.Param(jnp.zeros((count, neurons)))
            self.down_bias = nnx.Param(jnp.zeros((count, width)))
        self.count = count
        self.bias = experts.bias
        self.activation = activation
        self.clamp = experts.clamp

    def __call__(
        self,
        x: Float[Array, "S D"],
        chosen: Int[Array, "S K"],
        edit: Float[Array, "E F"] | None,
        place: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"], Dispatch]:
        """Returns outputs, gates and products per entry of the dispatch, and the dispatch."""
        # Measured: on CPU a ragged matmul is 20 times slower than blocks that each belong to one expert.
        block = block_size(chosen.size, self.count) if jax.default_backend() == "cpu" else 1
        plan = dispatch(chosen, self.gate.shape[-3], block)
        entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
        if block > 1:
            return *self.in_blocks(entries, plan, block, edit, place), plan
        return *self.ragged(entries, plan, edit, place), plan

    def in_blocks(
        self,
        entries: Float[Array, "M D"],
        plan: Dispatch,
        block: int,
        edit: Float[Array, "E F"] | None,
        place: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
        """Outputs, gates and products, a piece at a time: up to PIECE blocks of one expert, in one product.

        Measured on CPU: a product costs the reading of the expert's weights, whatever its entries, so an expert has as
        few of them as it can; and which of PIECE sizes it has is chosen when it runs, so that no more than a part of a
        block is padding.
        """
        weights = self._weights()

        def compute(rows: int, x: Float[Array, "C D"], expert: Int[Array, ""]) -> tuple[Array, Array, Array]:
            mine = {name: w[expert] if place is None else w[place, expert] for name, w in weights.items()}

            def project(x: Array, name: str) -> Array:
                y = x @ mine[name]
                return y + mine[f"{name}_bias"] if self.bias else y

            gate, product = self._activate(project(x[:rows], "gate"), project(x[:rows], "up"))
            edited = product if edit is None else product * edit[expert].astype(product.dtype)
            outputs, gate, product = (
                jnp.pad(result, ((0, len(x) - rows), (0, 0))) for result in (project(edited, "down"), gate, product)
            )
            return outputs, gate, product

        sizes = [partial(compute, count * block) for count in range(PIECE + 1)]

        @jax.checkpoint  # training would keep what each of the sizes computes
        def choose(size: Int[Array, ""], x: Float[Array, "C D"], expert: Int[Array, ""]) -> tuple[Array, Array, Array]:
            return jax.lax.switch(size, sizes, x, expert)

        def step(results: tuple[Array, ...], one: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
            expert, start, size = one
            found = choose(size, jax.lax.dynamic_slice_in_dim(entries, start, PIECE * block), expert)
            # What lies after the piece is overwritten by the next one.
            pairs = zip(results, found, strict=True)
            return tuple(jax.lax.dynamic_update_slice_in_dim(old, new, start, 0) for old, new in pairs), None

        neurons = weights["gate"].shape[-1]
        empty = tuple(
            jnp.zeros((len(entries), width), entries.dtype) for width in (entries.shape[-1], neurons, neurons)
        )
        (outputs, gate, product), _ = jax.lax.scan(step, empty, pieces(plan, block))
        return outputs, gate, product

    def ragged(
        self,
        entries: Float[Array, "M D"],
        plan: Dispatch,
        edit: Float[Array, "E F"] | None,
        place: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
        """The same as ragged matmuls over densely packed entries."""
        weights = self._weights()
        if place is not None:
            weights = {name: w[place] for name, w in weights.items()}

        def project(x: Array, name: str) -> Array:
            y = jax.lax.ragged_dot(x, weights[name], plan.tokens)
            return y + weights[f"{name}_bias"][plan.expert] if self.bias else y

        gate, product = self._activate(project(entries, "gate"), project(entries, "up"))
        edited = product if edit is None else product * edit[plan.expert].astype(product.dtype)
        return project(edited, "down"), gate, product

    def _weights(self) -> dict[str, Array]:
        names = ["gate", "up", "down"]
        return {name: getattr(self, name)[...] for name in names + [f"{n}_bias" for n in names if self.bias]}

    def _activate(self, gate: Float[Array, "B F"], up: Float[Array, "B F"]) -> tuple[Array, Array]:
        """Activation of the gate projection, and the product with the other one."""
        if self.clamp is None:
            gate = ACTIVATIONS[self.activation](gate)
            return gate, gate * up
        return _clamped(gate, up, self.clamp)


def _clamped(gate: Float[Array, "B F"], up: Float[Array, "B F"], clamp: Clamp) -> tuple[Array, Array]:
    gate = jnp.minimum(gate, clamp.limit)
    gate = gate * jax.nn.sigmoid(gate * clamp.slope)
    return gate, gate * (jnp.clip(up, -clamp.limit, clamp.limit) + 1.0)


class MoE(nnx.Module):
    """Routed experts, and a shared expert where the model has one, behind a sigmoid gate (Qwen2-MoE) or not."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        assert config.experts is not None
        experts = config.experts
        self.router = nnx.Linear(config.width, experts.count, use_bias=experts.bias, rngs=rngs)
        self.routed = RoutedExperts(config.width, experts, config.activation, rngs)
        if experts.shared_width:
            self.shared = MLP(config.width, experts.shared_width, config.activation, rngs, bias=False, gated=True)
        if experts.shared_gated:
            self.shared_gate = nnx.Linear(config.width, 1, use_bias=False, rngs=rngs)
        self.experts = experts

    def __call__(
        self,
        x: Float[Array, "S D"],
        real: Bool[Array, "S"],
        edits: Edits,
        *,
        axis: str | None,
        place: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "S D"], LayerTaps]:
        """Returns the output and the taps `routed` and, where there is a shared expert, `shared`.

        Over `axis`, each device has its own experts, and the entries of the tap are those of its experts, numbered
        from 0.
        """
        logits = self.router(x)
        chosen, weight = route(logits, self.experts, real, edits.expert)
        outputs, gate, product, plan = self.routed(x, self._local(chosen, axis), edits.routed, place)
        mine = jnp.take(outputs, plan.entry, axis=0, mode="fill", fill_value=0)
        y = jnp.einsum("SKD,SK->SD", mine, weight)
        taps: LayerTaps = {"routed": RoutedTap(gate, product, plan.slot, plan.expert, logits, chosen, weight)}
        if self.experts.shared_width:
            product, taps["shared"] = self.shared.neurons(x, edits.shared)
            shared = self.shared.down(product)
            y = y + (jax.nn.sigmoid(self.shared_gate(x)) * shared if self.experts.shared_gated else shared)
        return (y if axis is None else jax.lax.psum(y, axis)), taps

    def _local(self, chosen: Int[Array, "S K"], axis: str | None) -> Int[Array, "S K"]:
        """Experts numbered from the first that this device has; their count for those of other devices."""
        if axis is None:
            return chosen
        mine = self.routed.gate.shape[-3]
        local = chosen - jax.lax.axis_index(axis) * mine
        return jnp.where((local >= 0) & (local < mine), local, mine)
