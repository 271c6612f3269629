"""What either side shows of every token of the same texts, and how far the two are apart.

Axis legend: I texts, N tokens of all texts one after another, K experts of a token, F neurons, V vocabulary, L layers,
E experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int32

from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import Placement, Step, one_device
from sparcom_jax.engine.sweep import sweep
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.faults import first_fault
from sparcom_jax.models.taps import LayerTaps, RoutedTap
from sparcom_jax.units.groups import EXPERT_GROUP, model_groups
from sparcom_jax.verify.reference import Reference

Texts = Sequence[Int32[np.ndarray, "_"]]
Counts = dict[str, np.ndarray]
"""Counts `[I, L, ...]` by group of neurons, and under `expert` how many tokens were routed to each, `[I, L, E]`."""


class Tap(NamedTuple):
    """The neurons of one layer that a token passes; those of an MLP that all tokens pass are of one expert, 0.

    Attributes:
      expert: the token's experts, rising.
      gate: act_fn(gate_proj(x)).
      product: the input of down_proj.
    """

    expert: Int[np.ndarray, "N K"]
    gate: Float[np.ndarray, "N K F"]
    product: Float[np.ndarray, "N K F"]


class Reading(NamedTuple):
    """What one side shows.

    Attributes:
      logits: of the next token.
      taps: by group and layer number.
    """

    logits: Float[np.ndarray, "N V"]
    taps: dict[tuple[str, int], Tap]


@dataclass(frozen=True)
class Comparison:
    """How far two readings are apart.

    Where a token is routed elsewhere, what it leads to differs by no rounding: the token from the next layer on, and
    those after it in its text, are not compared any more, nor its logits.

    Attributes:
      logits: largest difference of a logit, relative to the largest logit.
      taps: largest difference of a gate or product, relative to the largest of its layer.
      signs: gates that were compared.
      flips: of these, those of another sign.
      routed: tokens whose experts were compared, over all layers.
      rerouted: of these, those with other experts.
    """

    logits: float
    taps: float
    signs: int
    flips: int
    routed: int
    rerouted: int


def compare(ours: Reading, theirs: Reading, lengths: Int32[np.ndarray, "I"]) -> Comparison:
    """Compares what two sides show of the same texts, of these lengths."""
    touched = np.zeros(int(lengths.sum()), bool)
    worst, signs, flips, routed, rerouted = 0.0, 0, 0, 0, 0
    for layer in sorted({layer for _, layer in theirs.taps}):
        elsewhere = np.zeros_like(touched)
        for group in (group for group, of in theirs.taps if of == layer):
            mine, other = ours.taps[group, layer], theirs.taps[group, layer]
            unlike = (mine.expert != other.expert).any(axis=1)
            if group == "routed":
                routed += int((~touched).sum())
                rerouted += int((unlike & ~touched).sum())
                elsewhere = unlike
            same = ~unlike & ~touched
            for a, b in ((mine.gate, other.gate), (mine.product, other.product)):
                worst = max(worst, _relative_error(a[same], b[same]))
            flipped = (mine.gate[same] > 0) != (other.gate[same] > 0)
            signs += flipped.size
            flips += int(flipped.sum())
        touched |= _from_first(elsewhere, lengths)
    return Comparison(
        _relative_error(ours.logits[~touched], theirs.logits[~touched]), worst, signs, flips, routed, rerouted
    )


def count(taps: dict[tuple[str, int], Tap], lengths: Int32[np.ndarray, "I"], experts: int) -> Counts:
    """Positive gates of each text, counted the plain way.

    Args:
      taps: by group and layer number, the layers of a group rising.
      lengths: tokens of each text.
      experts: E of the model; 0 where it has none.
    """
    text = np.repeat(np.arange(len(lengths)), lengths)[:, None]
    found: dict[str, list[np.ndarray]] = {}
    for (group, _), tap in taps.items():
        units = np.zeros((len(lengths), experts if group == "routed" else 1, tap.gate.shape[-1]), np.int64)
        np.add.at(units, (text, tap.expert), tap.gate > 0)
        found.setdefault(group, []).append(units if group == "routed" else units[:, 0])
        if group == "routed":
            chosen = np.zeros((len(lengths), experts), np.int64)
            np.add.at(chosen, (text, tap.expert), 1)
            found.setdefault(EXPERT_GROUP, []).append(chosen)
    return {group: np.stack(layers, axis=1) for group, layers in found.items()}


def read_torch(reference: Reference, config: DecoderConfig, ids: Texts) -> Reading:
    """Reads texts with transformers, one by one, without padding."""
    hooks: dict[str, str] = {}
    for layer, one in enumerate(config.layers):
        mlp = f"{reference.layer(layer)}.mlp"
        if one.routed:
            hooks[f"x{layer}"] = f"{mlp}:in"
        if neurons := reference.shared(mlp) if one.routed else mlp:
            hooks[f"gate{layer}"], hooks[f"product{layer}"] = reference.neurons(neurons)
    of_texts = [reference.run(text, hooks) for text in ids]
    read = {name: np.concatenate([of_text[name] for of_text in of_texts]) for name in of_texts[0]}
    taps = {}
    for layer, one in enumerate(config.layers):
        if f"gate{layer}" in read:
            group = "shared" if one.routed else "mlp"
            taps[group, layer] = _of_all(read[f"gate{layer}"], read[f"product{layer}"])
        if one.routed:
            routed = reference.routed(read[f"x{layer}"], f"{reference.layer(layer)}.mlp")
            order = np.argsort(routed.chosen, axis=1)[:, :, None]
            taps["routed", layer] = Tap(np.sort(routed.chosen, axis=1), np.take_along_axis(routed.gate, order, 1),
                                        np.take_along_axis(routed.product, order, 1))  # fmt: skip
    return Reading(read["logits"], taps)


def read_decoder(config: DecoderConfig, params: Params, ids: Texts, batch_tokens: int) -> tuple[Reading, Counts]:
    """Reads texts with the decoder, packed as a capture packs them, on the one device that has the parameters.

    Returns:
      The reading, and the counts that the same compiled program made of the same activations.
    """
    lengths = np.asarray([len(text) for text in ids], np.int32)
    texts = TokenizedSet(ids, np.zeros_like(lengths), lengths, {})
    model = PlacedModel(config, params, one_device(device_of(params)))
    groups = {group.name: group for group in model_groups(config)}
    counts: Counts = {}
    parts, number = [], []
    (bins,) = make_plan(lengths, len(ids), batch_tokens).blocks
    step = partial(_step, config, placement=model.placement)
    for one in sweep(model, feeds(texts, bins, 1, texts.counting), step):
        logits, found = jax.tree.map(_in_numpy, one.values)
        used = int(lengths[list(one.texts)].sum())
        number += [text for text in one.texts for _ in range(len(ids[text]))]
        parts.append(Reading(logits[:used], {
            (name, layer): _of_layer(jax.tree.map(lambda leaf, at=at: leaf[at], tap), used)
            for name, (tap, _) in found.items() for at, layer in enumerate(groups[name].layers)
        }))  # fmt: skip
        for name, (_, statistics) in found.items():
            kept = {name: "positive_count"} | ({EXPERT_GROUP: "selected_count"} if name == "routed" else {})
            for group, statistic in kept.items():
                values = np.moveaxis(statistics[statistic], 1, 0).astype(np.int64)
                counts.setdefault(group, np.zeros((len(ids), *values.shape[1:]), np.int64))
                counts[group][list(one.texts)] = values[: len(one.texts)]
    order = np.argsort(np.asarray(number), kind="stable")
    return jax.tree.map(lambda *leaves: np.concatenate(leaves)[order], *parts), counts


def device_of(params: Params) -> jax.Device:
    """The one device that has the parameters."""
    (device,) = jax.tree.leaves(params)[0].devices()
    return device


@lru_cache
def _step(config: DecoderConfig, shape: Shape, placement: Placement) -> Step:
    """Logits, and of each group, stacked over its layers, the tap and the statistics that are made of it."""
    experts = config.experts.count if config.experts else 0
    statistics = Statistics(shape.rows, experts, "gate", values=False, counting=placement.kernels.counting)

    def step(params: Params, batch: Batch, nothing: None) -> Any:
        del nothing

        def reduce(taps: LayerTaps) -> dict[str, Any]:
            reduced = statistics.reduce(taps, batch)
            return {name: (tap, reduced[name]) for name, tap in taps.items()}

        with jax.default_matmul_precision("highest"):
            decoder = bind(config, params)
            output = decoder(batch, shape, reduce=reduce, compute=placement.compute)
            logits = decoder.logits(output.hidden)
        return (logits, output.taps), first_fault(output.finite, batch.row, shape.rows)

    return placement.compile(step, config, None, None)


def _in_numpy(value: np.ndarray) -> np.ndarray:
    """As what NumPy can reckon with, which bfloat16 is not."""
    return value if value.dtype.kind in "iub" else value.astype(np.float32)


def _of_layer(tap: Any, used: int) -> Tap:
    """The tap of one layer, token by token; `used` slots hold a token."""
    if not isinstance(tap, RoutedTap):
        return _of_all(tap.gate[:used], tap.product[:used])
    chosen = np.sort(tap.chosen[:used], axis=1)
    entry = np.flatnonzero(tap.slot < used)
    token = tap.slot[entry]
    choice = np.argmax(chosen[token] == tap.expert[entry][:, None], axis=1)
    gate = np.zeros((*chosen.shape, tap.gate.shape[-1]), np.float32)
    product = np.zeros_like(gate)
    gate[token, choice], product[token, choice] = tap.gate[entry], tap.product[entry]
    return Tap(chosen, gate, product)


def _of_all(gate: Float[np.ndarray, "N F"], product: Float[np.ndarray, "N F"]) -> Tap:
    return Tap(np.zeros((len(gate), 1), np.int64), gate[:, None], product[:, None])


def _relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference, relative to the largest value; what is not finite is infinitely far away."""
    if not theirs.size:
        return 0.0
    error = float(np.abs(ours.astype(np.float64) - theirs).max() / (np.abs(theirs).max() or 1.0))
    return error if np.isfinite(error) else float("inf")


def _from_first(marked: Bool[np.ndarray, "N"], lengths: Int32[np.ndarray, "I"]) -> Bool[np.ndarray, "N"]:
    """The first token of each text that is marked, and all after it."""
    return np.concatenate([np.logical_or.accumulate(part) for part in np.split(marked, np.cumsum(lengths)[:-1])])
