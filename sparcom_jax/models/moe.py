"""Routed experts: every token passes the experts that it is routed to, and no other; no token is dropped.

Axis legend: S token slots of a batch, D model width, E experts, K experts per token, F neurons of an expert,
M entries of the dispatch, B entries of a block.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from sparcom_jax.models.collectives import replicated_input, sum_over
from sparcom_jax.models.config import Activation, Clamp, DecoderConfig, Experts
from sparcom_jax.models.context import Context
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import ExpertsKernel
from sparcom_jax.models.kernels.experts import ExpertMLPs, arrange, run_experts
from sparcom_jax.models.layers import ACTIVATIONS, MLP, Linear
from sparcom_jax.models.routing import Dispatch, route
from sparcom_jax.models.taps import LayerTaps, RoutedTap


class RoutedExperts(nnx.Module):
    """E gated MLPs of which each token passes K; weights are stacked on a leading expert axis.

    Where they are those of several layers, on an axis before it, `repeat` tells which layer is meant.
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
        edit: NeuronEdit,
        variant: Int[Array, "S"],
        repeat: Int[Array, ""] | None,
        kernel: ExpertsKernel,
    ) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"], Dispatch]:
        """Returns outputs, gates and products per entry of the dispatch, and the dispatch."""
        plan, block = arrange(chosen, self.gate.shape[-3], self.count, kernel)
        entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
        of_entry = None if edit.variants == 1 else jnp.take(variant, plan.slot, mode="clip")
        experts = ExpertMLPs(self._weights(), self._activate, edit, of_entry, repeat)
        return *run_experts(entries, plan, block, experts, kernel), plan

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

    def __init__(self, config: DecoderConfig, experts: Experts, rngs: nnx.Rngs) -> None:
        self.router = Linear(config.width, experts.count, bias=experts.bias, rngs=rngs)
        self.routed = RoutedExperts(config.width, experts, config.activation, rngs)
        if experts.shared_width:
            self.shared = MLP(config.width, experts.shared_width, config.activation, rngs, bias=False, gated=True)
        if experts.shared_gated:
            self.shared_gate = Linear(config.width, 1, bias=False, rngs=rngs)
        self.experts = experts

    def __call__(
        self, x: Float[Array, "S D"], edits: Edits, context: Context, repeat: Int[Array, ""] | None
    ) -> tuple[Float[Array, "S D"], LayerTaps]:
        """Returns the output and the taps `routed` and, where there is a shared expert, `shared`.

        Over a mesh axis, each device has its own experts, and the entries of the tap are those of its experts, numbered
        from 0. `repeat` is as in `RoutedExperts`.
        """
        axis, variant = context.compute.axis, context.batch.variant
        logits = self.router(x)
        chosen, weight = route(
            logits, self.experts, context.valid, edits.expert_of_slots(variant), edits.forced_of_slots(variant)
        )
        read = replicated_input(x, axis)
        local = self._local(chosen, axis)
        kernel = context.compute.kernels.experts
        outputs, gate, product, plan = self.routed(read, local, edits.routed, variant, repeat, kernel)
        outputs = jnp.take(outputs, plan.entry, axis=0, mode="fill", fill_value=0)
        edited = edits.weigh(weight, chosen, variant)
        y = jnp.einsum("SKD,SK->SD", outputs, replicated_input(edited, axis))
        norm = sum_over(jnp.linalg.norm(outputs.astype(jnp.float32), axis=-1), axis)
        taps: LayerTaps = {"routed": RoutedTap(gate, product, plan.slot, plan.expert, logits, chosen, weight, norm)}
        if self.experts.shared_width:
            product, taps["shared"] = self.shared.neurons(read, edits.shared, variant)
            shared = self.shared.down(product)
            if self.experts.shared_gated:
                shared = replicated_input(jax.nn.sigmoid(self.shared_gate(x)), axis) * shared
            y = y + shared
        return sum_over(y, axis), taps

    def _local(self, chosen: Int[Array, "S K"], axis: str | None) -> Int[Array, "S K"]:
        """Experts numbered from the first that this device has; their count for those of other devices."""
        if axis is None:
            return chosen
        count = self.routed.gate.shape[-3]
        local = chosen - jax.lax.axis_index(axis) * count
        return jnp.where((local >= 0) & (local < count), local, count)
