"""The compiled steps of an exploration: what chosen units, or all, do at every token of a batch.

Axis legend: S token slots of a batch, L layers, F neurons, K experts per token, n chosen units of a group, M entries of
the dispatch.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, Int32

from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.engine.placement import Placement, Step
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.collectives import sum_over
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.faults import first_fault
from sparcom_jax.models.taps import LayerTaps, NeuronTap, RoutedTap


class Places(NamedTuple):
    """Where the chosen units of a group are.

    Attributes:
      layer: index of the layer in the group.
      expert: of routed neurons and experts; 0 for others.
      neuron: of neurons; 0 for experts.
    """

    layer: Int32[Array, "n"]
    expert: Int32[Array, "n"]
    neuron: Int32[Array, "n"]


@lru_cache(maxsize=64)
def probe_step(config: DecoderConfig, shape: Shape, convention: str, placement: Placement) -> Step:
    """The compiled step of a batch shape.

    Returns:
      A function of (params, batches, places by group), which gives by group the activations of the chosen units
      `[data, n, S]`, and the first fault of each text `[data, R]`. Of neurons that is what the capture counts, 0 where
      their expert is not routed to; of experts it is the routing weight.
    """
    experts = config.experts.count // placement.model if config.experts else 0

    def routed(tap: RoutedTap, at: Places, slots: int) -> Float[Array, "S n"]:
        first = 0 if placement.axis is None else jax.lax.axis_index(placement.axis) * experts
        hit = tap.expert[:, None] + first == at.expert
        values = jnp.where(hit, jnp.take(getattr(tap, convention), at.neuron, axis=1), 0)
        # Unused entries belong to no slot.
        whole = jnp.zeros((slots, len(at.expert)), values.dtype).at[tap.slot].add(values, mode="drop")
        return sum_over(whole, placement.axis)

    def step(params: Params, batch: Batch, places: dict[str, Places]) -> tuple[dict[str, Any], Int32[Array, "R"]]:
        def reduce(taps: LayerTaps) -> dict[str, Any]:
            found: dict[str, Any] = {}
            for name, at in places.items():
                tap = taps.get("routed" if name == "expert" else name)
                if isinstance(tap, NeuronTap):
                    found[name] = _columns(getattr(tap, convention), at.neuron, placement.axis)
                elif isinstance(tap, RoutedTap):
                    found[name] = _weights(tap, at.expert) if name == "expert" else routed(tap, at, len(batch.row))
            return found

        with jax.default_matmul_precision("highest"):
            output = bind(config, params)(batch, shape, reduce=reduce, compute=placement.compute)
        values = {
            name: jnp.take_along_axis(found, places[name].layer[None, None], axis=0)[0].T.astype(jnp.float32)
            for name, found in output.taps.items()
        }
        return values, first_fault(output.finite, batch.row, shape.rows)

    return placement.compile(step, config, P(), (P(), P()))


@lru_cache(maxsize=8)
def prompt_step(
    config: DecoderConfig,
    shape: Shape,
    convention: str,
    places: tuple[tuple[str, tuple[int, ...]], ...],
    placement: Placement,
) -> Step:
    """The compiled step that keeps whole activations, of a batch of few tokens.

    Args:
      config: the model.
      shape: of the batch.
      convention: which activation of neurons, as in a capture.
      places: by group of neurons, the indices of the layers that are kept.
      placement: where the model lies.

    Returns:
      A function of (params, batches, None), which gives by group `activation` `[data, L, S, F]`, of routed neurons
      `[data, L, S, K, F]` with `expert` and `weight` `[data, L, S, K]`, and the first fault of each text as each device
      that shares the model sees it, `[data, model, R]`.
    """
    experts = config.experts.count // placement.model if config.experts else 0
    kept = dict(places)
    statistics = Statistics(shape.rows, experts, convention, False, placement.kernels.counting)

    def routed(tap: RoutedTap) -> dict[str, Array]:
        first = 0 if placement.axis is None else jax.lax.axis_index(placement.axis) * experts
        own = jnp.take(tap.chosen, tap.slot, axis=0, mode="fill", fill_value=-1)
        choice = jnp.argmax(own == (tap.expert + first)[:, None], axis=1)
        activation = getattr(tap, convention)
        # Unused entries belong to no slot.
        whole = jnp.zeros((*tap.chosen.shape, activation.shape[1]), activation.dtype)
        whole = whole.at[tap.slot, choice].set(activation, mode="drop")
        return {"activation": sum_over(whole, placement.axis), "expert": tap.chosen, "weight": tap.weight}

    def step(params: Params, batch: Batch, nothing: None) -> tuple[dict[str, Any], Int32[Array, "1 R"]]:
        del nothing

        def reduce(taps: LayerTaps) -> dict[str, Any]:
            found: dict[str, Any] = {
                name: routed(tap) if isinstance(tap, RoutedTap) else {"activation": getattr(tap, convention)}
                for name, tap in taps.items()
                if name in kept
            }
            return found | {"finite": statistics.finite(taps, batch)}

        with jax.default_matmul_precision("highest"):
            output = bind(config, params)(batch, shape, reduce=reduce, compute=placement.compute)
        # As in a capture: what is not finite in the last layer's activations shows in no stream.
        fault = first_fault(jnp.concatenate([output.finite, output.taps["finite"][-1:]]), batch.row, shape.rows)
        values = {
            name: {
                array: of[jnp.asarray(layers)].astype(jnp.int32 if array == "expert" else jnp.float32)
                for array, of in output.taps[name].items()
            }
            for name, layers in kept.items()
        }
        return values, fault[None]

    of_neurons = {"activation": P(None, None, "model")}
    whole = {"activation": P(), "expert": P(), "weight": P()}
    specs = {name: whole if name == "routed" else of_neurons for name in kept}
    return placement.compile(step, config, None, (specs, P("model")))


def _columns(activation: Float[Array, "S F"], neuron: Int[Array, "n"], axis: str | None) -> Float[Array, "S n"]:
    first = 0 if axis is None else jax.lax.axis_index(axis) * activation.shape[1]
    local = neuron - first
    here = (local >= 0) & (local < activation.shape[1])
    return sum_over(jnp.where(here, jnp.take(activation, local, axis=1, mode="clip"), 0), axis)


def _weights(tap: RoutedTap, expert: Int[Array, "n"]) -> Float32[Array, "S n"]:
    hit = tap.chosen[:, :, None] == expert
    return jnp.sum(jnp.where(hit, tap.weight[:, :, None].astype(jnp.float32), 0), axis=1)
