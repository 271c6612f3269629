"""Interventions: what becomes of neurons before `down_proj`, which experts are chosen, and what these weigh.

An edit has a value for each variant of the model; `Batch.variant` says under which one a slot is, so that one step
runs texts under many variants.

Axis legend: V variants of the model, L layers, E experts, K experts per token, F neurons, N rows: token slots, or
entries of the dispatch.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int


class NeuronEdit(NamedTuple):
    """Makes `scale * product + shift` of the input of `down_proj`; None leaves that part out.

    With scale 0 a neuron is off, with its mean as shift besides it is fixed at the mean. Routed experts have an axis E
    before the neurons, and act on the tokens that are routed to them only.

    Attributes:
      scale: multiplies the input of `down_proj`.
      shift: is added then.
    """

    scale: Float[Array, "L V *units"] | None = None
    shift: Float[Array, "L V *units"] | None = None

    @property
    def variants(self) -> int:
        """V, of the edit of one layer; 1 where nothing is edited."""
        return max((len(values) for values in self if values is not None), default=1)

    def apply(
        self,
        product: Float[Array, "N F"],
        variant: Int[Array, "N"] | None,
        expert: Int[Array, "N"] | None = None,
    ) -> Float[Array, "N F"]:
        """The edited input of `down_proj`, by the edit of one layer.

        Args:
          product: the input.
          variant: of each row; not read where there is one variant only.
          expert: of each row; None where the edit is that of one MLP.
        """
        if self.scale is not None:
            product = product * _of_rows(self.scale, variant, expert).astype(product.dtype)
        if self.shift is not None:
            product = product + _of_rows(self.shift, variant, expert).astype(product.dtype)
        return product


def _of_rows(
    values: Float[Array, "V *units"], variant: Int[Array, "N"] | None, expert: Int[Array, "N"] | None
) -> Float[Array, "#N F"]:
    if len(values) == 1:
        return values if expert is None else values[0][expert]
    return values[variant] if expert is None else values[variant, expert]


class Edits(NamedTuple):
    """Edits of the whole model.

    Layers that have such units are counted on the first axis, in order (as in the capture's arrays), variants on the
    second.

    Attributes:
      mlp: of the neurons of dense MLPs.
      shared: of the shared experts' neurons.
      routed: of the routed experts' neurons.
      expert: True where the router may choose the expert; None where it may choose any.
      gate: multiplies the routing weight of an expert once it is chosen, so that with 0 no other takes its place; None
        leaves weights as they are.
      forced: True where the router must choose the expert; no more of a layer than a token is routed to.
    """

    mlp: NeuronEdit = NeuronEdit()
    shared: NeuronEdit = NeuronEdit()
    routed: NeuronEdit = NeuronEdit()
    expert: Bool[Array, "L V E"] | None = None
    gate: Float[Array, "L V E"] | None = None
    forced: Bool[Array, "L V E"] | None = None

    @classmethod
    def switch_off(cls, *variants: Mapping[str, Bool[np.ndarray, "..."]]) -> "Edits":
        """Edits that switch units off: neurons become 0, experts cannot be chosen.

        Args:
          variants: for each variant, field -> the units that are off, `[L, ...]`; all variants have the same fields,
            and a field in which nothing is off is no other program than one in which something is.
        """
        fields: dict[str, Any] = {}
        for name in variants[0]:
            on: Any = ~np.stack([off[name] for off in variants], axis=1)
            fields[name] = on if name == "expert" else NeuronEdit(scale=on.astype(np.float32))
        return cls(**fields)

    def expert_of_slots(self, variant: Int[Array, "N"]) -> Bool[Array, "#N E"] | None:
        """Which experts each slot may be routed to, by the edits of one layer."""
        return self.expert if self.expert is None or len(self.expert) == 1 else self.expert[variant]

    def forced_of_slots(self, variant: Int[Array, "N"]) -> Bool[Array, "#N E"] | None:
        """Which experts each slot must be routed to, by the edits of one layer."""
        return self.forced if self.forced is None or len(self.forced) == 1 else self.forced[variant]

    def weigh(
        self, weight: Float[Array, "N K"], chosen: Int[Array, "N K"], variant: Int[Array, "N"]
    ) -> Float[Array, "N K"]:
        """The routing weights of the experts that each slot is routed to, by the edits of one layer.

        Args:
          weight: the router's; 0 for padding.
          chosen: the experts; E for padding.
          variant: of each slot; not read where there is one variant only.
        """
        if self.gate is None:
            return weight
        under = jnp.zeros_like(variant) if len(self.gate) == 1 else variant
        return weight * self.gate.at[under[:, None], chosen].get(mode="clip").astype(weight.dtype)

    def of(self, *, routed: bool) -> "Edits":
        """The edits that concern layers with routed experts, or the others."""
        if routed:
            return self._replace(mlp=NeuronEdit())
        return Edits(mlp=self.mlp)

    def rows(self, layers: slice) -> "Edits":
        """The edits of some of the layers that it counts."""
        return jax.tree.map(lambda edit: edit[layers], self)
