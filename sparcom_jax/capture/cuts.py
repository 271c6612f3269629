"""The cut on the device: counts in, packed sets out, the same bit by bit as `identify` makes of stored counts.

A sixteenth of the bytes leaves the device. An instruction's cut is found by bisection over the counts, as on the host
(`identify/score.py`); where neurons or experts are sharded over devices, these add up how many units reach a count.

Axis legend: L layers, R texts of a batch, S token slots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt16

from sparcom_jax.engine.placement import Placement
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection, share_of
from sparcom_jax.models.batch import Batch
from sparcom_jax.shares import least_whole_of_each
from sparcom_jax.units.device_bits import pack_on_device
from sparcom_jax.units.groups import Group

Counts = UInt16[Array, "_ R ..."]
Mask = Bool[Array, "_ R ..."]


@dataclass(frozen=True)
class SetCut:
    """Turns the counts of neurons into sets.

    Attributes:
      selection: how sets are chosen.
      groups: the model's neuron groups, with all their units.
      axis: mesh axis that units are sharded over, right after the layers, or None.
    """

    selection: Selection
    groups: tuple[Group, ...]
    axis: str | None

    def reduce(self, statistics: dict[str, dict[str, Array]], batch: Batch, rows: int) -> dict[str, dict[str, Array]]:
        """Puts sets in the place of the counts.

        Args:
          statistics: of each group, stacked over layers: `positive_count` [L, R, ...] and whatever else.
          batch: the batch that they come from.
          rows: texts R that it can hold.

        Returns:
          Of each group `mask` [L, R, ..., bytes], 8 units a byte, lowest bit first, and `cut_count` [R], the least
          count that a unit of the set has (with ties `drop`, that it must exceed); whatever else is left as it was.
        """
        tokens = jax.ops.segment_sum(batch.counted.astype(jnp.int32), batch.row, rows, indices_are_sorted=True)
        result = {name: dict(of_group) for name, of_group in statistics.items()}
        for groups in self.selection.cut_together(self.groups):
            counts = [result[group.name].pop("positive_count") for group in groups]
            masks, cut = self._select(groups, counts, tokens, len(batch.row))
            for group, mask in zip(groups, masks, strict=True):
                result[group.name]["mask"] = pack_on_device(mask)
                result[group.name]["cut_count"] = cut.astype(jnp.uint16)
        return result

    def _select(
        self, groups: Sequence[Group], counts: list[Counts], tokens: Int[Array, "R"], most: int
    ) -> tuple[list[Mask], Int[Array, "R"]]:
        if self.selection.selector == "threshold":
            least = least_whole_of_each(self.selection.threshold, np.arange(1, most + 1))
            cut = jnp.asarray(least, jnp.int32)[jnp.maximum(tokens, 1) - 1]
            return [_reach(count, cut) for count in counts], cut
        wanted = share_of(self.selection.epsilon, groups)
        cut = self._cut_count(counts, tokens, wanted)
        if self.selection.ties == "include":
            return [_reach(count, jnp.maximum(cut, 1)) for count in counts], cut
        above = [_reach(count, cut + 1) for count in counts]
        if self.selection.ties == "drop":
            return above, cut
        left = wanted - self._total(sum(map(_units, above)))
        masks = []
        for count, mask in zip(counts, above, strict=True):
            tied = (count.astype(jnp.int32) == _beside(cut, count)) & (count > 0)
            masks.append(mask | self._first(tied, left))
            left = left - self._total(_units(tied))
        return masks, cut

    def _cut_count(self, counts: list[Counts], tokens: Int[Array, "R"], wanted: int) -> Int[Array, "R"]:
        """Of each text, the largest count that at least `wanted` units reach."""

        def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds  # `low` is reached by enough units, `high + 1` is not
            middle = (low + high + 1) // 2
            enough = self._total(sum(_units(_reach(count, middle)) for count in counts)) >= wanted
            return jnp.where(enough, middle, low), jnp.where(enough, high, middle - 1)

        bounds = jnp.zeros_like(tokens), tokens
        return jax.lax.while_loop(lambda bounds: jnp.any(bounds[0] < bounds[1]), halve, bounds)[0]

    def _first(self, tied: Mask, wanted: Int[Array, "R"]) -> Mask:
        """The first `wanted` of the tied units of each text, in the order of layers, then of units within them."""
        within = _cumulated(tied.reshape(*tied.shape[:2], -1))
        per_layer = within[..., -1]  # [L, R]
        if self.axis is None:
            before = _cumulated(per_layer, axis=0) - per_layer
        else:
            parts = jax.lax.all_gather(per_layer, self.axis, axis=1)  # [L, devices, R]: the order of the units
            flat = parts.reshape(-1, parts.shape[-1])
            earlier = (_cumulated(flat, axis=0) - flat).reshape(parts.shape)
            before = jnp.take(earlier, jax.lax.axis_index(self.axis), axis=1)
        place = (before[..., None] + within).reshape(tied.shape)
        return tied & (place <= _beside(wanted, tied))

    def _total(self, count: Any) -> Array:
        return count if self.axis is None else jax.lax.psum(count, self.axis)


def require_whole_bytes(groups: Sequence[Group], placement: Placement) -> None:
    """Refuses a mesh that would divide a byte of a mask.

    Raises:
      InputError: the neurons on a device are not a multiple of 8.
    """
    for group in groups:
        if placement.model > 1 and len(group.sizes) == 1 and group.sizes[0] % (8 * placement.model):
            raise InputError(f"placement mesh:{placement.model} leaves a device of {group.name} "
                             f"{group.sizes[0] // placement.model} neurons, which is no multiple of 8, as "
                             f"capture.keep=sets needs")  # fmt: skip


def _reach(count: Counts, least: Int[Array, "R"]) -> Mask:
    return count.astype(jnp.int32) >= _beside(least, count)


def _units(mask: Mask) -> Int[Array, "R"]:
    return jnp.sum(mask, axis=(0, *range(2, mask.ndim)), dtype=jnp.int32)


def _beside(of_text: Int[Array, "R"], units: Array) -> Array:
    """One number per text, shaped to meet `[L, R, ...]`."""
    return of_text.reshape(1, -1, *[1] * (units.ndim - 2))


def _cumulated(values: Array, axis: int = -1) -> Array:
    return jnp.cumsum(values, axis=axis, dtype=jnp.int32)
