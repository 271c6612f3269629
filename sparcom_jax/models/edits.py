"""Interventions: what the forward pass multiplies its neurons with, and the experts it may route to."""

from typing import NamedTuple

import jax
from jaxtyping import Array, Bool, Float

from sparcom_jax.models.config import LayerKind


class Edits(NamedTuple):
    """Edits of the whole model; None leaves that part of the forward pass as it is.

    The first axis counts the layers that have such units, in order (as in the capture's arrays).

    Attributes:
      mlp: multiplies the input of `down_proj` in dense MLPs; 0 switches a neuron off.
      shared: the same for the shared experts.
      routed: the same for the routed experts.
      expert: True where the router may choose the expert; the logits of the others are set to minus infinity.
    """

    mlp: Float[Array, "L F"] | None = None
    shared: Float[Array, "L F"] | None = None
    routed: Float[Array, "L E F"] | None = None
    expert: Bool[Array, "L E"] | None = None

    def of_kind(self, kind: LayerKind) -> "Edits":
        """The edits that concern layers of one kind."""
        if kind == "dense":
            return Edits(mlp=self.mlp)
        return Edits(shared=self.shared, routed=self.routed, expert=self.expert)

    def rows(self, start: int, stop: int) -> "Edits":
        """The edits of the layers `start` to `stop` of each kind."""
        return jax.tree.map(lambda edit: edit[start:stop], self)
