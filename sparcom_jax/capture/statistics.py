"""Per-instruction statistics, reduced on the device inside the layer that the activations arise in.

Axis legend: S token slots, R texts of a batch, F neurons, E experts on this device, K experts per token,
M entries of the dispatch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from sparcom_jax.models.batch import Batch
from sparcom_jax.models.faults import all_finite
from sparcom_jax.models.kernels.choice import CountingKernel
from sparcom_jax.models.kernels.counting import count_by_row, count_by_row_and_expert
from sparcom_jax.models.taps import LayerTaps, NeuronTap, RoutedTap


@dataclass(frozen=True)
class Statistics:
    """What is kept of each layer's taps.

    Attributes:
      rows: texts R that a batch can hold.
      experts: experts E on this device; 0 for a dense model.
      convention: which activation is counted: `gate` is act_fn(gate_proj(x)), `product` is the input of down_proj.
      values: whether sums and maxima of the activation, and sums of what experts add, are kept too.
      counting: how it is counted, as in `Kernels`.
    """

    rows: int
    experts: int
    convention: str
    values: bool
    counting: CountingKernel

    def reduce(self, taps: LayerTaps, batch: Batch) -> dict[str, dict[str, Array]]:
        """Reduces the taps of one layer to statistics per text.

        Args:
          taps: of one layer.
          batch: the batch that they come from.

        Returns:
          For each tap: `positive_count` [R, F] (routed: [R, E, F]), with `values` also `value_sum` and `value_max`;
          for routed also `selected_count` and `gate_sum` [R, E_all], with `values` also `norm_sum`.
        """
        return {
            name: self._routed(tap, batch) if isinstance(tap, RoutedTap) else self._dense(tap, batch)
            for name, tap in taps.items()
        }

    def finite(self, taps: LayerTaps, batch: Batch) -> Bool[Array, "S"]:
        """Whether the activations of one layer that are counted are finite for each token, on this device."""
        sound = jnp.ones(len(batch.row), bool)
        for tap in taps.values():
            each = all_finite(getattr(tap, self.convention))
            if isinstance(tap, RoutedTap):
                # Unused entries belong to no slot.
                sound = sound.at[jnp.where(each, len(batch.row), tap.slot)].set(False, mode="drop")
            else:
                sound &= each
        return sound

    def _dense(self, tap: NeuronTap, batch: Batch) -> dict[str, Array]:
        activation, counted = getattr(tap, self.convention), batch.counted[:, None]
        count = count_by_row((activation > 0) & counted, batch.row, self.rows, self.counting)
        return {"positive_count": count, **self._values(activation, batch.row, counted, self.rows)}

    def _routed(self, tap: RoutedTap, batch: Batch) -> dict[str, Array]:
        used = tap.slot < len(batch.row)
        slot = jnp.minimum(tap.slot, len(batch.row) - 1)
        # Entries are sorted by expert, then by slot; unused ones end an expert's and keep its last row.
        row = jnp.where(used, jnp.minimum(batch.row[slot], self.rows - 1), self.rows - 1)
        counted = (used & batch.counted[slot])[:, None]
        activation = getattr(tap, self.convention)
        count = count_by_row_and_expert((activation > 0) & counted, row, tap.expert, self.rows, self.experts,
                                        self.counting)  # fmt: skip
        values = {
            name: jnp.moveaxis(value.reshape(self.experts, self.rows, -1), 0, 1)
            for name, value in self._values(
                activation, tap.expert * self.rows + row, counted, self.experts * self.rows
            ).items()
        }
        all_experts = tap.logits.shape[-1]
        hit = jnp.where(batch.counted[:, None, None], jax.nn.one_hot(tap.chosen, all_experts, dtype=jnp.float32), 0.0)
        selected = _sum(jnp.sum(hit, axis=1), batch.row, self.rows)

        def by_expert(added: Float[Array, "S K"]) -> Float[Array, "R E"]:
            return _sum(jnp.einsum("SKE,SK->SE", hit, added, precision="highest"), batch.row, self.rows)

        weight = tap.weight.astype(jnp.float32)
        of_experts = {"selected_count": selected.astype(jnp.uint16), "gate_sum": by_expert(weight)}
        if self.values:
            of_experts["norm_sum"] = by_expert(weight * tap.norm)
        return {"positive_count": count, **values, **of_experts}

    def _values(
        self, activation: Float[Array, "A F"], segment: Int[Array, "A"], counted: Bool[Array, "A 1"], segments: int
    ) -> dict[str, Array]:
        if not self.values:
            return {}
        high = activation.astype(jnp.float32)
        largest = jax.ops.segment_max(jnp.where(counted, high, -jnp.inf), segment, segments, indices_are_sorted=True)
        return {
            "value_sum": _sum(jnp.where(counted, high, 0.0), segment, segments),
            # A unit that met no counted token has no maximum; 0 is what the arrays hold where nothing was seen.
            "value_max": jnp.where(jnp.isfinite(largest), largest, 0.0),
        }


def _sum(values: Array, segment: Int[Array, "A"], segments: int) -> Array:
    return jax.ops.segment_sum(values, segment, segments, indices_are_sorted=True)
