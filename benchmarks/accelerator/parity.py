"""Whether the engine gives the right numbers on this device: against torch on the same card, and against the CPU.

A small random model of each family goes through the real path: saved by transformers, converted, restored, captured.
Signs within rounding of zero may differ between two sides, and a token may be routed elsewhere where two experts tie to
within rounding; how often either may happen has a bound. "Count flips" are the least number of signs that explains how
far two sets of counts are apart, as a share of all signs counted, over the texts whose experts were chosen alike.

On CPU, where compiling takes nearly all of the time, `float32` is checked for all families, everything else for one or
two of them, which `ON_CPU` names; on an accelerator, everything for all.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch
from jaxtyping import Int32

from benchmarks.accelerator import small
from benchmarks.accelerator.interventions import (
    Slopes,
    nll_of_torch,
    random_edits,
    routed_alike,
    slopes_at,
    switch_off,
)
from benchmarks.accelerator.machine import on_cpu
from benchmarks.accelerator.readings import (
    Comparison,
    Counts,
    Reading,
    compare,
    count,
    device_of,
    read_decoder,
    read_torch,
)
from benchmarks.accelerator.record import Record
from benchmarks.models import instruction_set
from sparcom_jax.batches.packing import fill, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.select import identify
from sparcom_jax.identify.selection import Selection
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params
from sparcom_jax.models.edits import NeuronEdit
from sparcom_jax.models.kernels.choice import kernels_of
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import EXPERT_GROUP, NEURON_GROUPS, model_groups
from sparcom_jax.verify.reference import Reference

FAMILIES = tuple(small.OWN)

ERROR, FLIPS, REROUTED = 1e-3, 1e-5, 1e-4
"""What float32 must keep to: errors relative to the largest value, shares of signs, shares of tokens."""
TEXTS_REROUTED = 0.1
"""Share of texts in which a capture may choose other experts: one near tie leads all that follows elsewhere."""
NLL_ERROR, SLOPE_ERROR = 1e-4, 1e-2
NEW_TOKENS = 8
OFF = 0.1
STEP = 3e-3
"""Of an edit, for finite differences: as small as the rounding of a likelihood allows."""

SCORED = (2, 9, 17, 26, 33, 40, 55, 64)
"""Tokens of the texts whose likelihood is measured."""
PROMPTS = (1, 2, 5, 9, 17, 26, 33, 40, 47, 55, 60, 64)
"""Tokens of the texts that are continued."""


def parity(record: Record, family: str, work: Path) -> None:
    """Takes down how far the engine is from its oracles.

    Args:
      record: takes it down; its part tells the family.
      family: one of `FAMILIES`.
      work: where files go.
    """
    torch.set_float32_matmul_precision("highest")
    if on_cpu():
        torch.set_num_threads(1)  # the models are too small for two, which would keep JAX from its cores
    case: Case | None = record.attempt("conversion", partial(make_case, family, work))
    if case is None:
        return
    record.fact(f"{family} torch", torch_device())
    for name, (check, seconds) in CHECKS.items():
        if not on_cpu() or family in ON_CPU.get(name, FAMILIES):
            record.attempt(name, partial(check, record, case), 0.0 if on_cpu() else seconds)


@dataclass
class Case:
    """A model that both sides have, and the texts that they read.

    Attributes:
      family: of the model.
      checkpoint: its Hugging Face directory.
      model: the same, converted.
      params: its parameters in float32, on the first device.
      work: where files go.
    """

    family: str
    checkpoint: Path
    model: ModelDir
    params: Params
    work: Path

    @property
    def config(self) -> DecoderConfig:
        """What the decoder runs on."""
        return self.model.config

    @property
    def experts(self) -> int:
        """Routed experts of a layer; 0 where there are none."""
        return self.config.experts.count if self.config.experts else 0

    @cached_property
    def ids(self) -> list[Int32[np.ndarray, "_"]]:
        """The texts."""
        return small.texts()

    @cached_property
    def lengths(self) -> Int32[np.ndarray, "I"]:
        """Tokens of the texts."""
        return np.asarray([len(text) for text in self.ids], np.int32)

    @cached_property
    def reference(self) -> Reference:
        """The model in torch, in float32."""
        return self.in_torch(torch.float32)

    @cached_property
    def theirs(self) -> Reading:
        """What torch shows of the texts, in float32."""
        return read_torch(self.reference, self.config, self.ids)

    @cached_property
    def ours(self) -> tuple[Reading, Counts]:
        """What the decoder shows of the texts on the first device, in float32, and the counts made there."""
        return read_decoder(self.config, self.params, self.ids, small.BATCH_TOKENS)

    @cached_property
    def captured(self) -> Run:
        """A capture of the texts."""
        return self.capture("counts")

    def in_torch(self, dtype: torch.dtype) -> Reference:
        """The model in torch, on the same card where there is one."""
        return Reference(self.checkpoint, dtype, torch_device())

    def capture(
        self, name: str, ids: list[Int32[np.ndarray, "_"]] | None = None, *, placement: str = "pmap", **settings: Any
    ) -> Run:
        """Captures the texts, or others, in float32, into a run of this name."""
        texts = instruction_set([small.written(text) for text in ids or self.ids])
        how = Selection("frequency"), ExecutionSettings(small.BATCH_TOKENS, placement, "float32")
        return capture(self.model, texts, self.work / f"{self.family}-{name}", CaptureSettings(**settings), *how)


def torch_device() -> str:
    """Where torch runs: on the same card where there is one that it can use."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def make_case(family: str, work: Path) -> Case:
    """Makes a small random model of a family and converts it."""
    checkpoint = small.save(work / f"{family}-hf", family)
    model = convert(checkpoint, work / family)
    return Case(family, checkpoint, model, on_device(model, jax.local_devices()[0], "float32"), work)


def on_device(model: ModelDir, device: jax.Device, dtype: str) -> Params:
    """The parameters on one device."""
    return model.restore(jax.sharding.SingleDeviceSharding(device), dtype)


def float32(record: Record, case: Case) -> None:
    """Every logit, gate, product and choice of experts, in float32: against torch, and against the CPU."""
    ours, counts = case.ours
    take_down(record, "torch", compare(ours, case.theirs, case.lengths), strict=True)
    own, other = (count(one.taps, case.lengths, case.experts) for one in (ours, case.theirs))
    record.figure("torch counts differ", differing(own, other), "share")
    record.figure("miscounted", differing(counts, own), "share", goal=0, strict=True)
    if on_cpu():
        return
    params = jax.device_put(case.params, jax.devices("cpu")[0])
    theirs, _ = read_decoder(case.config, params, case.ids, small.BATCH_TOKENS)
    take_down(record, "cpu", compare(ours, theirs, case.lengths), strict=True)
    other = count(theirs.taps, case.lengths, case.experts)
    record.figure("cpu counts differ", differing(own, other), "share")


def captures(record: Record, case: Case) -> None:
    """A real capture against the counts of torch's activations, and of the decoder's own."""
    counts = stored_counts(case.captured)
    theirs = count(case.theirs.taps, case.lengths, case.experts)
    own = count(case.ours[0].taps, case.lengths, case.experts)
    _take_down_counts(record, "capture", case, counts, theirs)
    record.figure("capture counts differ", differing(counts, theirs), "share")
    record.figure("capture largest difference",
                  max(np.abs(counts[group] - theirs[group]).max() for group in counts), "tokens")  # fmt: skip
    record.figure("capture own count flips", count_flips(case, counts, own), "share", goal=FLIPS,
                  strict=True)  # fmt: skip


def sets(record: Record, case: Case) -> None:
    """Sets that were cut on the device against those that `identify` makes of stored counts, bit by bit."""
    kept, cut = identify(case.capture("sets", keep="sets")), identify(case.captured, selector="frequency")
    unlike = [kept.mask(group).read().result() != cut.mask(group).read().result() for group in cut.groups]
    record.figure("sets differ", sum(int(one.sum()) for one in unlike), "bytes", goal=0, strict=True)


def bfloat16(record: Record, case: Case) -> None:
    """The same as `float32` in bfloat16, in which each side rounds in its own way: measured, and no more."""
    params = on_device(case.model, jax.local_devices()[0], "bfloat16")
    ours, _ = read_decoder(case.config, params, case.ids, small.BATCH_TOKENS)
    theirs = read_torch(case.in_torch(torch.bfloat16), case.config, case.ids)
    take_down(record, "bfloat16", compare(ours, theirs, case.lengths), strict=False)


def generated(record: Record, case: Case) -> None:
    """Greedy continuations: each token against what torch would say next, given the same tokens before it."""
    ids = small.texts(PROMPTS, seed=1)
    run = case.capture("generated", ids, scope="generated", new_tokens=NEW_TOKENS)
    tokens, lengths, stop = run.read("generated/token"), run.read("generated/length"), case.model.stop_token_ids()
    others, wrong = 0, 0
    for text, row, length in zip(ids, tokens, lengths, strict=True):
        made = row[:length]
        logits = case.reference.run(np.concatenate([text, made]), {})["logits"][len(text) - 1 : -1]
        short_of_best = (logits.max(axis=1) - logits[np.arange(length), made]) / np.abs(logits).max()
        others += int((short_of_best > 0).sum())
        wrong += int((short_of_best > ERROR).sum())
        stops = np.isin(made, stop)
        wrong += int(stops[:-1].any()) + int(length < NEW_TOKENS and not stops[-1])
    record.figure("generated otherwise", others / lengths.sum(), "share")
    record.figure("generated wrong", wrong / lengths.sum(), "share", goal=0, strict=True)


def ablation(record: Record, case: Case) -> None:
    """Likelihoods with a tenth of the neurons off, and one expert of each layer, against torch without these."""
    ids = small.texts(SCORED, seed=2)
    lengths = np.asarray([len(text) for text in ids], np.int32)
    texts = TokenizedSet(ids, np.maximum(lengths // 2, 1), lengths, {})
    model = place_model(case.model, make_placement("pmap", case.config), "float32")
    likelihood = Likelihood(model, texts, [f"text {row}" for row in range(len(ids))], small.BATCH_TOKENS)
    everything, some = random_edits(case.config, share_off=0.0), random_edits(case.config, share_off=OFF)
    whole, ablated = likelihood.mean_nll(everything, ""), likelihood.mean_nll(some, " with units switched off")
    reference = case.in_torch(torch.float32)
    for name, ours, edits in (("nll", whole, None), ("ablated nll", ablated, some)):
        if edits:
            switch_off(reference, case.config, edits)
        theirs = nll_of_torch(reference, texts)
        record.figure(f"{name} error", np.abs(ours / theirs - 1).max(), "share", goal=NLL_ERROR, strict=True)
    record.figure("ablation effect", np.abs(ablated / whole - 1).mean(), "share")


def gradients(record: Record, case: Case) -> None:
    """Gradients of the likelihood at the edits against finite differences, and against the CPU."""
    ids = small.texts(SCORED, seed=2)
    lengths = np.asarray([len(text) for text in ids], np.int32)
    ((one,),) = make_plan(lengths, len(ids), small.BATCH_TOKENS).blocks
    following = [np.arange(1, len(ids[text]) + 1) < len(ids[text]) for text in one.texts]
    batch = fill(one.shape, [ids[text] for text in one.texts], following)

    def slopes(params: Params, *rest: Any) -> Slopes:
        return slopes_at(case.config, one.shape, kernels_of(device_of(params)), params, *rest)

    edits = random_edits(case.config, share_off=0.0)._replace(expert=None)
    everything = np.ones(one.shape.rows, np.float32)
    random = np.random.default_rng(0)
    at = slopes(case.params, batch, edits, everything)
    errors = []
    for group in (group.name for group in model_groups(case.config)):
        scale = getattr(edits, group).scale
        direction = random.choice(np.float32([-1, 1]), scale.shape)
        beside = [edits._replace(**{group: NeuronEdit(scale + step * direction)}) for step in (STEP, -STEP)]
        sides = [slopes(case.params, batch, moved, everything) for moved in beside]
        # Where a step leads a token elsewhere, there is no slope: these texts are left out.
        steady = routed_alike(batch, one.shape.rows, at.chosen, sides[0].chosen, sides[1].chosen)
        difference = (np.float64(sides[0].nll) - np.float64(sides[1].nll)) @ steady / (2 * STEP)
        gradient = np.float64(getattr(slopes(case.params, batch, edits, steady).gradient, group).scale)
        # A random direction meets about as much of the slope as the gradient is long.
        errors.append(abs(difference - (gradient * direction).sum()) / np.linalg.norm(gradient))
        record.figure(f"{group} texts with a slope", steady[: len(ids)].mean(), "share")
    record.figure("gradient error", np.max(errors), "share", goal=SLOPE_ERROR, strict=True)
    if on_cpu():
        return
    params = jax.device_put(case.params, jax.devices("cpu")[0])
    steady = routed_alike(batch, one.shape.rows, at.chosen, slopes(params, batch, edits, everything).chosen)
    ours, theirs = (slopes(where, batch, edits, steady).gradient for where in (case.params, params))
    errors = [np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()
              for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True)]  # fmt: skip
    record.figure("cpu gradient error", np.max(errors), "share", goal=ERROR, strict=True)


def placements(record: Record, case: Case) -> None:
    """Captures over all local devices: the default again, which must give the same bits, and the mesh."""
    counts = stored_counts(case.captured)
    again = stored_counts(case.capture("again"))
    record.figure("pmap counts differ", differing(counts, again), "share", goal=0, strict=True)
    parts = most_parts(case.config)
    record.fact(f"{case.family} mesh", f"{jax.local_device_count() // parts} x {parts}")
    mesh = stored_counts(case.capture("mesh", placement=f"mesh:{parts}"))
    _take_down_counts(record, "mesh", case, mesh, counts)


CHECKS: dict[str, tuple[Callable[[Record, Case], None], float]] = {
    "float32": (float32, 0),
    "capture": (captures, 0),
    "sets": (sets, 5),
    "bfloat16": (bfloat16, 5),
    "generated": (generated, 10),
    "ablation": (ablation, 5),
    "gradients": (gradients, 10),
    "placements": (placements, 5),
}
"""The checks by name, each with the seconds that must be left on an accelerator, the most important first."""

ON_CPU = {
    "capture": ("llama",),
    "sets": ("llama",),
    "bfloat16": ("gemma2",),
    "generated": ("llama",),
    "ablation": ("qwen2_moe",),
    "gradients": ("llama",),
    "placements": ("llama",),
}
"""The families for which a check is done on CPU; one that is not named is done for all."""


def take_down(record: Record, name: str, found: Comparison, *, strict: bool) -> None:
    """Takes down a comparison, with its goals where it is `strict`."""
    goals: Any = [{"goal": goal, "strict": True} if strict else {} for goal in (ERROR, FLIPS, REROUTED)]
    record.figure(f"{name} logit error", found.logits, "share", **goals[0])
    record.figure(f"{name} tap error", found.taps, "share", **goals[0])
    record.figure(f"{name} flips", found.flips / max(found.signs, 1), "share", **goals[1])
    record.figure(f"{name} signs", found.signs, "signs")
    if found.routed:
        record.figure(f"{name} rerouted", found.rerouted / found.routed, "share", **goals[2])


def differing(ours: Counts, theirs: Counts) -> float:
    """Share of all counts that differ."""
    return sum(int((ours[group] != theirs[group]).sum()) for group in theirs) / sum(a.size for a in theirs.values())


def alike(ours: Counts, theirs: Counts) -> np.ndarray:
    """Of each text, whether all experts were chosen as often on both sides, `[I]`."""
    if EXPERT_GROUP not in theirs:
        return np.ones(len(next(iter(theirs.values()))), bool)
    return (ours[EXPERT_GROUP] == theirs[EXPERT_GROUP]).all(axis=(1, 2))


def count_flips(case: Case, ours: Counts, theirs: Counts) -> float:
    """Least number of signs that differ, as a share of all that were counted in texts that are routed alike."""
    texts = alike(ours, theirs)
    groups = [group for group in NEURON_GROUPS if group in theirs]
    apart = sum(int(np.abs(ours[group][texts] - theirs[group][texts]).sum()) for group in groups)
    per_token = {"mlp": case.config.mlp_width}
    if case.config.experts:
        per_token |= {"shared": case.config.experts.shared_width,
                      "routed": case.config.experts.width * case.config.experts.per_token}  # fmt: skip
    signs = int(case.lengths[texts].sum()) * sum(theirs[group].shape[1] * per_token[group] for group in groups)
    return apart / max(signs, 1)


def stored_counts(run: Run) -> Counts:
    """The counts of a run."""
    return {group: np.asarray(run.count(group).read().result()).astype(np.int64) for group in run.groups}


def most_parts(config: DecoderConfig) -> int:
    """The most local devices that can share a batch of the model."""
    for parts in range(jax.local_device_count(), 1, -1):
        try:
            return make_placement(f"mesh:{parts}", config).model
        except InputError:
            continue
    return 1


def _take_down_counts(record: Record, name: str, case: Case, ours: Counts, theirs: Counts) -> None:
    record.figure(f"{name} count flips", count_flips(case, ours, theirs), "share", goal=FLIPS, strict=True)
    if case.experts:
        record.figure(f"{name} texts rerouted", 1 - alike(ours, theirs).mean(), "share", goal=TEXTS_REROUTED,
                      strict=True)  # fmt: skip
