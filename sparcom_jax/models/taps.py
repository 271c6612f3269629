"""The closed list of what can be read out of a forward pass, each with its definition and shape.

Axis legend: S token slots of a batch, F neurons, E routed experts, K experts per token, M entries of the routed
dispatch (each token appears K times, sorted by expert, with unused entries between).

| tap      | layers            | field     | shape  | definition                                             |
|----------|-------------------|-----------|--------|--------------------------------------------------------|
| `mlp`    | dense             | `gate`    | [S, F] | act_fn(gate_proj(x))                                   |
|          |                   | `product` | [S, F] | act_fn(gate_proj(x)) * up_proj(x), input of down_proj  |
| `shared` | MoE, shared       | as `mlp`  | [S, F] | the same of the shared expert                          |
| `routed` | MoE               | `gate`    | [M, F] | the same of the expert that the entry is routed to     |
|          |                   | `product` | [M, F] |                                                        |
|          |                   | `slot`    | [M]    | token slot of the entry; S where the entry is unused   |
|          |                   | `expert`  | [M]    | expert of the entry                                    |
|          |                   | `logits`  | [S, E] | router logits                                          |
|          |                   | `chosen`  | [S, K] | experts of the token, by falling weight; E for padding |
|          |                   | `weight`  | [S, K] | their routing weights; 0 for padding                   |
|          |                   | `norm`    | [S, K] | Euclidean norm of what down_proj of each returns       |
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Array, Float, Int


class NeuronTap(NamedTuple):
    """Activations of an MLP that every token passes: tap `mlp` or `shared`."""

    gate: Float[Array, "S F"]
    product: Float[Array, "S F"]


class RoutedTap(NamedTuple):
    """Activations of the routed experts and the routing that led to them: tap `routed`."""

    gate: Float[Array, "M F"]
    product: Float[Array, "M F"]
    slot: Int[Array, "M"]
    expert: Int[Array, "M"]
    logits: Float[Array, "S E"]
    chosen: Int[Array, "S K"]
    weight: Float[Array, "S K"]
    norm: Float[Array, "S K"]


LayerTaps = dict[str, NeuronTap | RoutedTap]
"""The taps of one layer: `{"mlp"}` of a dense layer, `{"routed"}` or `{"routed", "shared"}` of an MoE layer."""

Reduce = Callable[[LayerTaps], dict[str, Any]]
"""Reduces the taps of one layer where they arise; keys are tap names, values any tree of arrays."""
