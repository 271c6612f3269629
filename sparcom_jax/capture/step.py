"""The compiled step of a capture: a batch of texts in, their statistics out."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32

from sparcom_jax.capture.cuts import SetCut
from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.engine.placement import Placement, Step
from sparcom_jax.identify.selection import Selection
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.faults import first_fault
from sparcom_jax.models.taps import LayerTaps
from sparcom_jax.store.statistics import Statistic, kept_statistics
from sparcom_jax.units.groups import Group, model_groups


@dataclass(frozen=True)
class Kept:
    """What a capture keeps of each text.

    Attributes:
      convention: which activation is counted: `gate` is act_fn(gate_proj(x)), `product` is the input of down_proj.
      values: whether sums and maxima of the activation, and sums of what experts add, are kept beside the counts.
      selection: how sets are chosen that are kept instead of counts; None where counts are kept.
    """

    convention: str = "gate"
    values: bool = False
    selection: Selection | None = None

    def statistics(self, group: Group) -> tuple[Statistic, ...]:
        """The statistics of a group of neurons."""
        return kept_statistics(group, sets=self.selection is not None, values=self.values)


@lru_cache(maxsize=64)
def capture_step(config: DecoderConfig, shape: Shape, kept: Kept, placement: Placement) -> Step:
    """The compiled step of a batch shape.

    Returns:
      A function of (params, batches, None), which gives statistics `[data, L, R, ...]` by group, or `[data, R]` of what
      all layers have in common, and the first fault (`models/faults.py`) of each text as each device that shares the
      model sees it, `[data, model, R]`.
    """
    groups = tuple(model_groups(config))
    experts = config.experts.count // placement.model if config.experts else 0
    statistics = Statistics(shape.rows, experts, kept.convention, kept.values, placement.kernels.counting)
    cut = SetCut(kept.selection, groups, placement.axis) if kept.selection else None

    def step(params: Params, batch: Batch, nothing: None) -> tuple[dict[str, Any], Int32[Array, "1 R"]]:
        del nothing

        def reduce(taps: LayerTaps) -> dict[str, Any]:
            return {**statistics.reduce(taps, batch), "finite": statistics.finite(taps, batch)}

        # Full precision where the dtype is float32; TPUs and GPUs would round the inputs of matmuls otherwise.
        with jax.default_matmul_precision("highest"):
            output = bind(config, params)(batch, shape, reduce=reduce, compute=placement.compute)
        found = dict(output.taps)
        # What is not finite in a layer shows in the stream of the next; of the last one, the stream is not computed.
        last = found.pop("finite")[-1:]
        fault = first_fault(jnp.concatenate([output.finite, last]), batch.row, shape.rows)
        return cut.reduce(found, batch, shape.rows) if cut else found, fault[None]

    specs = {
        group.name: {one.name: P(None, None, "model") if one.sharded else P() for one in kept.statistics(group)}
        for group in groups
    }
    return placement.compile(step, config, None, (specs, P("model")))
