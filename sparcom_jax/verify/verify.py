"""A user's own check of a converted model: the engine against transformers, on real instructions."""

from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Bool, Float, Int32

from sparcom_jax.batches.packing import Bin, feeds, one_text
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import Step, one_device
from sparcom_jax.engine.sweep import BinResults, sweep
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.faults import ALL_FINITE, all_finite, first_fault, place_of
from sparcom_jax.models.taps import RoutedTap
from sparcom_jax.progress import progress
from sparcom_jax.verify.modules import ModuleError, module_errors, relative_error
from sparcom_jax.verify.reference import Reference, Routed


@dataclass(frozen=True)
class Limits:
    """What a model must keep to in float32; bfloat16, in which both sides round in their own way, is only measured.

    Attributes:
      logits: largest error of a logit, relative to the largest logit.
      signs: least share of activations whose sign agrees.
      routing: least share of tokens that are routed to the same experts.
      module: largest error of a module's output when it is given transformers' input, relative to the largest output.
    """

    logits: float
    signs: float
    routing: float
    module: float


LIMITS = Limits(logits=1e-3, signs=0.99999, routing=0.9999, module=1e-4)
DTYPES = ("float32", "bfloat16")


@dataclass
class LayerAgreement:
    """Agreement of one kind of neurons in one layer.

    Attributes:
      layer: layer number.
      group: `mlp`, `shared` or `routed`.
      activations: how many were compared; of routed neurons, those of tokens that are routed alike.
      flips: how many have another sign.
      tokens: tokens that were routed; 0 for other groups.
      rerouted: tokens that are routed to other experts.
    """

    layer: int
    group: str
    activations: int = 0
    flips: int = 0
    tokens: int = 0
    rerouted: int = 0


@dataclass(frozen=True)
class Verification:
    """The outcome.

    Attributes:
      dtype: what both ran in.
      texts: instructions compared.
      tokens: tokens compared.
      logits_error: largest relative error of a logit.
      layers: agreement by layer and group.
      departure: the first module that departs when it is given transformers' input, where the outcome falls short.
      faults: what falls short, one line each.
    """

    dtype: str
    texts: int
    tokens: int
    logits_error: float
    layers: list[LayerAgreement]
    departure: ModuleError | None
    faults: list[str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"departure": self.departure._asdict() if self.departure else None}


def verify(model: ModelDir, source: Path, instructions: InstructionSet, count: int, dtype: str) -> Verification:
    """Compares a converted model with transformers on the checkpoint that it was made from.

    Args:
      model: the converted model.
      source: the Hugging Face directory, or the GGUF file.
      instructions: texts to compare on.
      count: how many, taken evenly from the whole set.
      dtype: `float32` or `bfloat16`, for both sides.

    Raises:
      InputError: an unknown dtype, no texts, transformers cannot load the checkpoint, or numbers that are not finite on
        either side.
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not known; known: {', '.join(DTYPES)}")
    if count < 1:
        raise InputError(f"count {count}: must be at least 1")
    model.require_head("the comparison of logits")
    config = model.config
    tokenizer = model.tokenizer()
    reader = Reader(tokenizer, make_template("none", tokenizer), config.vocab_size, Limit(config.max_positions))
    prompts = tokenize_prompts(instructions, reader)
    taken = np.unique(np.linspace(0, len(prompts.ids) - 1, min(count, len(prompts.ids))).astype(int))
    try:
        reference = Reference(source, getattr(torch, dtype))
    except Exception as error:  # transformers raises whatever the model's own code raises
        raise InputError(f"{source}: transformers cannot load it: {error}") from error
    placed = place_model(model, one_device(), dtype)
    layers = {
        (layer, group): LayerAgreement(layer, group)
        for layer, one in enumerate(config.layers)
        for group in (("routed", "shared") if one.routed else ("mlp",))
    }
    worst = 0.0
    with progress("verifying", len(taken), "instructions") as bar:
        for index in taken.tolist():
            bins = [Bin(one_text(len(prompts.ids[index])), (index,))]
            # One at a time: what is read of a text may take gigabytes.
            (found,) = sweep(placed, feeds(prompts, bins, 1, prompts.counting), partial(_step, config))
            name = f"instruction {instructions.rows[index]['id']}, {dtype}"
            worst = max(worst, _compare_text(config, found, reference, prompts.ids[index], layers, name))
            bar.advance()
    agreements = [one for one in layers.values() if one.activations]
    faults = _faults(worst, agreements, LIMITS) if dtype == "float32" else []
    departure = None
    if faults:
        longest = max((prompts.ids[index] for index in taken), key=len)
        errors = module_errors(bind(config, placed.params), reference, longest)
        departure = next((one for one in errors if not one.error <= LIMITS.module), None)
    return Verification(dtype, len(taken), int(prompts.lengths[taken].sum()), worst, agreements, departure, faults)


def render(outcome: Verification) -> str:
    """The outcome as plain text."""
    lines = [f"{'layer':>5} {'group':<7} {'activations':>13} {'flips':>8} {'flip rate':>10} {'rerouted tokens':>16}"]
    for one in outcome.layers:
        rerouted = f"{one.rerouted}/{one.tokens}" if one.tokens else "-"
        lines.append(
            f"{one.layer:>5} {one.group:<7} {one.activations:>13,} {one.flips:>8,} "
            f"{one.flips / one.activations:>10.1e} {rerouted:>16}"
        )
    flips, activations = sum(one.flips for one in outcome.layers), sum(one.activations for one in outcome.layers)
    lines += [
        "",
        f"{outcome.texts} instructions, {outcome.tokens:,} tokens, {outcome.dtype}",
        f"largest error of a logit, relative to the largest logit: {outcome.logits_error:.1e}",
        f"flip rate of all activations: {flips / max(activations, 1):.1e}",
        *(f"FAULT {fault}" for fault in outcome.faults),
    ]
    if outcome.departure:
        lines.append(f"first module that departs: {outcome.departure.module} (error {outcome.departure.error:.1e})")
    elif outcome.faults:
        lines.append("no module departs by itself: the errors add up from layer to layer")
    return "\n".join(lines)


def _compare_text(
    config: DecoderConfig,
    found: BinResults,
    reference: Reference,
    ids: Int32[np.ndarray, "T"],
    layers: dict[tuple[int, str], LayerAgreement],
    name: str,
) -> float:
    """Adds a text to the agreement of each layer, and returns the error of its logits.

    Raises:
      InputError: numbers of either side are not finite; it says so of the text by its name.
    """
    logits, taps = found.values
    hooks: dict[str, str] = {}
    for layer, one in enumerate(config.layers):
        mlp = f"{reference.layer(layer)}.mlp"
        neurons = reference.shared(mlp) if one.routed else mlp
        if neurons:
            hooks[f"gate{layer}"], _ = reference.neurons(neurons)
        if one.routed:
            hooks[f"x{layer}"] = f"{mlp}:in"
    read = reference.run(ids, hooks)
    ours = None if found.fault[0] == ALL_FINITE else place_of(int(found.fault[0]), config.num_layers)
    other = _first_not_finite(read, config.num_layers)
    if ours or other:
        raise InputError(f"{name}: the numbers of this package are {_since(ours)}, those of transformers "
                         f"{_since(other)}: there is nothing to compare")  # fmt: skip
    for group, of in (("mlp", config.dense_layers), ("shared", config.moe_layers)):
        for index, layer in enumerate(of if group in taps else ()):
            agreement = layers[layer, group]
            positive = read[f"gate{layer}"] > 0
            agreement.activations += positive.size
            agreement.flips += int(((taps[group].gate[index][: len(ids)] > 0) != positive).sum())
    for index, layer in enumerate(config.moe_layers):
        tap = jax.tree.map(lambda leaf, index=index: leaf[index], taps["routed"])
        theirs = reference.routed(read[f"x{layer}"], f"{reference.layer(layer)}.mlp")
        _compare_routed(tap, theirs, layers[layer, "routed"])
    return relative_error(logits[: len(ids)], read["logits"])


def _first_not_finite(read: dict[str, np.ndarray], layers: int) -> str | None:
    """Where what was read of transformers ceases to be finite."""
    for layer in range(layers):
        if not all(np.isfinite(read[name]).all() for name in (f"gate{layer}", f"x{layer}") if name in read):
            return place_of(2 * layer + 1, layers)
    return None if np.isfinite(read["logits"]).all() else place_of(2 * layers + 1, layers)


def _since(place: str | None) -> str:
    return "finite" if place is None else f"not finite from {place} on"


def _compare_routed(tap: RoutedTap, theirs: Routed, agreement: LayerAgreement) -> None:
    tokens = len(theirs.chosen)
    ours = np.sort(tap.chosen[:tokens], axis=1)
    same: Bool[np.ndarray, "T"] = (ours == np.sort(theirs.chosen, axis=1)).all(axis=1)
    agreement.tokens += tokens
    agreement.rerouted += int((~same).sum())
    entries = np.flatnonzero((tap.slot < tokens) & same[np.minimum(tap.slot, tokens - 1)])
    token, expert = tap.slot[entries], tap.expert[entries]
    choice = np.argmax(theirs.chosen[token] == expert[:, None], axis=1)
    positive = theirs.gate[token, choice] > 0
    agreement.activations += positive.size
    agreement.flips += int(((tap.gate[entries] > 0) != positive).sum())


def _faults(logits: float, agreements: list[LayerAgreement], limits: Limits) -> list[str]:
    faults = []
    if not logits <= limits.logits:
        faults.append(f"logits depart by {logits:.1e}, allowed is {limits.logits:.0e}")
    for one in agreements:
        signs = 1 - one.flips / one.activations
        if signs < limits.signs:
            faults.append(f"layer {one.layer}, {one.group}: {signs:.6%} of the signs agree, {limits.signs:.3%} must")
        routing = 1 - one.rerouted / one.tokens if one.tokens else 1.0
        if routing < limits.routing:
            faults.append(f"layer {one.layer}: {routing:.4%} of the tokens are routed alike, {limits.routing:.2%} must")
    return faults


@lru_cache
def _step(config: DecoderConfig, shape: Shape) -> Step:
    """The compiled step of a text: logits and taps, and the first fault (`models/faults.py`)."""
    placement = one_device()

    def step(params: Params, batch: Batch, nothing: None) -> tuple[tuple[Float[Array, "S V"], Any], Int32[Array, "R"]]:
        del nothing
        with jax.default_matmul_precision("highest"):
            decoder = bind(config, params)
            output = decoder(batch, shape, reduce=lambda taps: taps)
            logits = decoder.logits(output.hidden)
        ends = jnp.stack([all_finite(output.hidden), all_finite(logits)])
        return (logits, output.taps), first_fault(jnp.concatenate([output.finite, ends]), batch.row, shape.rows)

    return placement.compile(step, config, None, None)
