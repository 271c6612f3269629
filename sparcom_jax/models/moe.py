"""Routed experts: every token passes the experts that it is routed to, and no other; no token is dropped.

Axis legend: S token slots of a batch, D model width, E experts, K experts per token, F neurons of an expert,
M entries of the dispatch, B entries of a block.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sparcom_jax.models.config import Activation, DecoderConfig
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.layers import ACTIVATIONS, GatedMLP
from sparcom_jax.models.taps import LayerTaps, RoutedTap

CPU_BLOCK = 16


class Dispatch(NamedTuple):
    """Where each routed token lies when the tokens are sorted by expert.

    Attributes:
      slot: token slot of each entry; S where the entry is unused.
      expert: expert of each entry, not falling.
      entry: the entry of each token and choice; M for padding.
    """

    slot: Int[Array, "M"]
    expert: Int[Array, "M"]
    entry: Int[Array, "S K"]


def route(
    logits: Float[Array, "S E"], per_token: int, normalize: bool, real: Bool[Array, "S"], keep: Bool[Array, "E"] | None
) -> tuple[Int[Array, "S K"], Float[Array, "S K"]]:
    """Chooses the experts of each token: softmax in float32, then the K largest (Shazeer et al. 2017).

    Args:
      logits: router logits.
      per_token: K.
      normalize: whether the K weights are scaled to sum to 1.
      real: False for padding, which is routed nowhere.
      keep: False for experts that may not be chosen.

    Returns:
      The chosen experts (E for padding) and their weights (0 for padding).
    """
    if keep is not None:
        logits = jnp.where(keep, logits, -jnp.inf)
    weight, chosen = jax.lax.top_k(jax.nn.softmax(logits.astype(jnp.float32), axis=-1), per_token)
    if normalize:
        weight = weight / jnp.sum(weight, axis=-1, keepdims=True)
    chosen = jnp.where(real[:, None], chosen, logits.shape[-1])
    return chosen, jnp.where(real[:, None], weight, 0.0).astype(logits.dtype)


def dispatch(chosen: Int[Array, "S K"], experts: int, block: int) -> Dispatch:
    """Sorts the routed tokens by expert; each expert's entries start at a multiple of `block`.

    Args:
      chosen: experts of each token; `experts` for padding.
      experts: E.
      block: entries are padded to a multiple of this per expert; 1 packs them densely.

    Returns:
      A dispatch of M = ceil(S K / block) + E blocks of `block` entries (exactly S K entries where `block` is 1).
    """
    slots, per_token = chosen.shape
    flat = chosen.reshape(-1)
    routed = flat.size
    order = jnp.argsort(flat, stable=True)
    sizes = jnp.zeros(experts + 1, jnp.int32).at[flat].add(1)
    padded = -(-sizes // block) * block
    starts = jnp.cumsum(padded) - padded
    sorted_starts = jnp.cumsum(sizes) - sizes
    entries = routed if block == 1 else (-(-routed // block) + experts) * block
    by_rank = flat[order]
    position = starts[by_rank] + jnp.arange(routed, dtype=jnp.int32) - sorted_starts[by_rank]
    position = jnp.where(by_rank < experts, position, entries)
    slot = jnp.full(entries, slots, jnp.int32).at[position].set(order.astype(jnp.int32) // per_token, mode="drop")
    ends = (starts + padded)[:experts]
    expert = jnp.searchsorted(ends, jnp.arange(entries, dtype=jnp.int32), side="right").astype(jnp.int32)
    entry = jnp.zeros(routed, jnp.int32).at[order].set(position.astype(jnp.int32))
    return Dispatch(slot, jnp.minimum(expert, experts - 1), entry.reshape(slots, per_token))


class RoutedExperts(nnx.Module):
    """E gated MLPs of which each token passes K; weights are stacked on a leading expert axis."""

    def __init__(self, width: int, experts: int, neurons: int, activation: Activation, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.lecun_normal(batch_axis=0)
        self.gate = nnx.Param(init(rngs.params(), (experts, width, neurons)))
        self.up = nnx.Param(init(rngs.params(), (experts, width, neurons)))
        self.down = nnx.Param(init(rngs.params(), (experts, neurons, width)))
        self.activation = activation

    def __call__(
        self, x: Float[Array, "S D"], chosen: Int[Array, "S K"], edit: Float[Array, "E F"] | None
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"], Dispatch]:
        """Returns outputs, gates and products per entry of the dispatch, and the dispatch."""
        # Measured: on CPU a ragged matmul is 20 times slower than blocks that each belong to one expert.
        on_cpu = jax.default_backend() == "cpu"
        plan = dispatch(chosen, self.gate.shape[0], CPU_BLOCK if on_cpu else 1)
        entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
        run = self.in_blocks if on_cpu else self.ragged
        return *run(entries, plan, slots=len(x), edit=edit), plan

    def in_blocks(
        self, entries: Float[Array, "M D"], plan: Dispatch, *, slots: int, edit: Float[Array, "E F"] | None
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
        """Outputs, gates and products, one block of entries of one expert at a time."""
        del slots
        weights = self.gate[...], self.up[...], self.down[...]

        def step(carry: None, block: tuple[Array, Array]) -> tuple[None, tuple[Array, Array, Array]]:
            x, expert = block
            gate_proj, up_proj, down_proj = (jax.lax.dynamic_index_in_dim(w, expert, keepdims=False) for w in weights)
            gate = ACTIVATIONS[self.activation](x @ gate_proj)
            product = gate * (x @ up_proj)
            edited = product if edit is None else product * edit[expert].astype(product.dtype)
            return carry, (edited @ down_proj, gate, product)

        blocks = entries.reshape(-1, CPU_BLOCK, entries.shape[-1])
        _, results = jax.lax.scan(step, None, (blocks, plan.expert[::CPU_BLOCK]))
        outputs, gate, product = (result.reshape(len(entries), -1) for result in results)
        return outputs, gate, product

    def ragged(
        self, entries: Float[Array, "M D"], plan: Dispatch, *, slots: int, edit: Float[Array, "E F"] | None
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
        """The same as ragged matmuls over densely packed entries."""
        sizes = jnp.zeros(len(self.gate), jnp.int32).at[plan.expert].add((plan.slot < slots).astype(jnp.int32))
        gate = ACTIVATIONS[self.activation](jax.lax.ragged_dot(entries, self.gate[...], sizes))
        product = gate * jax.lax.ragged_dot(entries, self.up[...], sizes)
        edited = product if edit is None else product * edit[plan.expert].astype(product.dtype)
        return jax.lax.ragged_dot(edited, self.down[...], sizes), gate, product


class MoE(nnx.Module):
    """Routed experts, with a shared expert behind a sigmoid gate where the model has one (Qwen2-MoE)."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        assert config.experts is not None
        experts = config.experts
        self.router = nnx.Linear(config.width, experts.count, use_bias=False, rngs=rngs)
        self.routed = RoutedExperts(config.width, experts.count, experts.width, config.activation, rngs)
        if experts.shared_width:
            self.shared = GatedMLP(config.width, experts.shared_width, config.activation, False, rngs)
            self.shared_gate = nnx.Linear(config.width, 1, use_bias=False, rngs=rngs)
        self.per_token = experts.per_token
        self.normalize = experts.normalize
        self.has_shared = experts.shared_width > 0

    def __call__(
        self, x: Float[Array, "S D"], real: Bool[Array, "S"], edits: Edits, *, axis: str | None
    ) -> tuple[Float[Array, "S D"], LayerTaps]:
        """Returns the output and the taps `routed` and, where there is a shared expert, `shared`.

        Over `axis`, each device has its own experts, and the entries of the tap are those of its experts, numbered
        from 0.
        """
        logits = self.router(x)
        chosen, weight = route(logits, self.per_token, self.normalize, real, edits.expert)
        outputs, gate, product, plan = self.routed(x, self._local(chosen, axis), edits.routed)
        mine = jnp.take(outputs, plan.entry, axis=0, mode="fill", fill_value=0)
        y = jnp.einsum("SKD,SK->SD", mine, weight)
        taps: LayerTaps = {"routed": RoutedTap(gate, product, plan.slot, plan.expert, logits, chosen, weight)}
        if self.has_shared:
            product, taps["shared"] = self.shared.neurons(x, edits.shared)
            y = y + jax.nn.sigmoid(self.shared_gate(x)) * self.shared.down(product)
        return (y if axis is None else jax.lax.psum(y, axis)), taps

    def _local(self, chosen: Int[Array, "S K"], axis: str | None) -> Int[Array, "S K"]:
        """Experts numbered from the first that this device has; their count for those of other devices."""
        if axis is None:
            return chosen
        mine = self.routed.gate.shape[0]
        local = chosen - jax.lax.axis_index(axis) * mine
        return jnp.where((local >= 0) & (local < mine), local, mine)
