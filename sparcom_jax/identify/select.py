"""Which units are instruction-specific: cuts, tie rules, and the sets written beside the run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

import numpy as np
from jaxtyping import Bool, Float, Float64

from sparcom_jax.errors import InputError
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.identify.rows import rows_of
from sparcom_jax.identify.score import Scores, cut_count, cut_excess, exactly, exceeding, excess, reaching
from sparcom_jax.identify.selection import Selection, SelectionFields, share_of
from sparcom_jax.identify.writer import SetWriter
from sparcom_jax.progress import progress, say
from sparcom_jax.shares import least_whole_of_each
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.schema import MAX_COUNT, require_name
from sparcom_jax.store.sets import SetManifest, Sets, open_sets, sets_path
from sparcom_jax.units.bits import unpack
from sparcom_jax.units.groups import EXPERT_GROUP, NEURON_GROUPS, Group

Mask = Bool[np.ndarray, "_"]
Means = Float[np.ndarray, "_"]
Rates = Float64[np.ndarray, "*units"]


def identify(run: Run | str | Path, *, name: str = "", **fields: Unpack[SelectionFields]) -> Sets:
    """Finds the instruction-specific neurons and experts of every instruction, and the membership of each category.

    Reads the run in chunks of bounded size. A set of the same name is replaced, which is said if it was another. Where
    the capture kept sets of neurons instead of counts, they are taken over as they are.

    Args:
      run: a complete run, or its path or URL.
      name: name of the set, below `sets/`; that of the selector by default.
      **fields: the fields of `Selection`: `selector`, `epsilon`, `threshold`, `ties`, `pool`, `expert_per_layer` and
        `expert_epsilon`; those of neurons are by default the ones that the capture cut by, where it did.

    Returns:
      The sets, as written to the store.

    Raises:
      InputError: the run is incomplete, or a setting is out of range or not the one that the capture cut by.
    """
    run = as_run(run)
    kept = run.selection or {}
    selection = Selection(**{**kept, **fields})
    selection.check()
    name = name or selection.selector
    require_name(name)
    for field, value in kept.items():
        if getattr(selection, field) != value:
            raise InputError(f"{run.location}: keeps the sets of {field} {value}, not counts that {field} "
                             f"{getattr(selection, field)} could cut; capture with keep=counts for others")  # fmt: skip
    run.require_complete()
    for note in selection.idle(run.groups):
        say(f"{run.location}: {note}")
    largest = int(np.bincount(run.category).max())
    if largest > MAX_COUNT:
        raise InputError(f"{run.location}: a category has {largest} instructions; membership counts hold {MAX_COUNT}")
    neurons = [run.groups[group] for group in NEURON_GROUPS if group in run.groups]
    cuts = selection.cut_together(neurons)
    if EXPERT_GROUP in run.groups:
        cuts.append([run.groups[EXPERT_GROUP]])
    wanted = [_wanted(run, selection, groups) for groups in cuts]
    rates = mean_rates(run, run.groups) if selection.selector == "excess" else None
    replaced = run.store.read_attributes(sets_path(name))
    run.store.delete_prefix(f"{sets_path(name)}/")
    run.store.write_group("sets")
    digests: dict[str, str] = {}
    with progress("identify", len(cuts) * len(run.category), "instruction cuts") as bar:
        for groups, count in zip(cuts, wanted, strict=True):
            writer = SetWriter(run, name, groups)
            as_kept = run.selection is not None and groups[0].name != EXPERT_GROUP
            made = _kept(run, selection, groups) if as_kept else cut_counts(run, selection, groups, count, rates)
            for row, masks, cut in made:
                writer.add(row, masks, cut)
                bar.advance(1)
            digests |= writer.finish()
    manifest = SetManifest(asdict(selection), list(digests), _digest(run, selection, digests))
    run.store.write_group(sets_path(name), manifest.to_json())
    sets = open_sets(run, name)
    _report(run, sets)
    if replaced is not None and replaced.get("digest") != sets.digest:
        unlike = (f"{field} {replaced.get(field)}, now {value}" for field, value in asdict(selection).items()
                  if replaced.get(field) != value)  # fmt: skip
        say(f"{run.location}/{sets_path(name)}: replaces a set that differs ({', '.join(unlike) or 'in its units'}); "
            f"results made of that one must be made again")  # fmt: skip
    return sets


def _digest(run: Run, selection: Selection, masks: dict[str, str]) -> str:
    """Tells one version of a set from another; whether the device or the host cut the counts is no difference."""
    manifest = run.manifest
    made_of = {
        "selection": asdict(selection),
        "capture": {name: value for name, value in manifest.capture.items() if name != "keep"},
        "execution": manifest.execution,
        "model": manifest.model.digest,
        "tokenizer": manifest.tokenizer.digest,
        "instructions": manifest.instructions.digest,
        "masks": masks,
    }
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()


def _wanted(run: Run, selection: Selection, groups: list[Group]) -> int:
    """How many units an instruction is to have, of groups that are cut together; of experts it may be by layer."""
    if groups[0].name != EXPERT_GROUP:
        return share_of(selection.epsilon, groups)
    if selection.expert_epsilon > 0:
        return share_of(selection.expert_epsilon, groups)
    wanted = selection.expert_per_layer or run.manifest.model.num_experts_per_tok
    if wanted > groups[0].sizes[0]:
        raise InputError(f"{run.location}: expert_per_layer {wanted} is more than the {groups[0].sizes[0]} "
                         f"experts of a layer")  # fmt: skip
    return wanted


def cut_counts(
    run: Run, selection: Selection, groups: list[Group], wanted: int, rates: Mapping[str, Rates] | None
) -> Iterator[tuple[int, list[Mask], float]]:
    """Cuts the counts of groups that are cut together.

    Args:
      run: a run that keeps their counts.
      selection: how S(i) is chosen.
      groups: the groups.
      wanted: k, how many units an instruction is to have, of experts it may be by layer.
      rates: from `mean_rates`, for the selector `excess`; None for others.

    Yields:
      Of every instruction its row, its masks and where it was cut: a frequency, or with `excess` a z.
    """
    experts = groups[0].name == EXPERT_GROUP
    least = least_whole_of_each(selection.threshold, run.token_count)  # counts n with n / T >= threshold
    by_mean = (selection.ties == "exact" and selection.selector != "threshold" and not experts
               and run.store.read(f"{groups[0].name}/value_sum/zarr.json") is not None)  # fmt: skip
    arrays = [run.count(group.name) for group in groups]
    if by_mean:
        arrays += [run.store.open_array(f"{group.name}/value_sum") for group in groups]
    rate = [rates[group.name].reshape(-1) for group in groups] if rates else []
    for row, parts in rows_of(run, arrays):
        tokens = int(run.token_count[row])
        scores, sums = parts[: len(groups)], parts[len(groups) :]
        if selection.selector == "threshold" and not experts:
            yield row, [reaching(group, int(least[row])) for group in scores], selection.threshold
            continue
        if rates:
            scores = [excess(*of_group, tokens) for of_group in zip(scores, rate, strict=True)]
        unit = 1 if rates else tokens
        if experts and selection.expert_epsilon == 0:
            layers = [_top(selection.ties, [layer], None, wanted) for layer in scores[0].reshape(groups[0].shape)]
            # The cut that is recorded is the lowest of the layers'.
            yield row, [np.concatenate([mask for (mask,), _ in layers])], min(cut for _, cut in layers) / unit
        else:
            means = np.concatenate(sums) / np.float32(tokens) if sums else None
            masks, cut = _top(selection.ties, scores, means, wanted)
            yield row, masks, cut / unit


def _kept(run: Run, selection: Selection, groups: list[Group]) -> Iterator[tuple[int, list[Mask], float]]:
    """The same, as the capture cut it."""
    cut = run.read(f"{groups[0].name}/cut_count") / run.token_count
    if selection.selector == "threshold":
        cut[:] = selection.threshold
    for row, packed in rows_of(run, [run.store.open_array(f"{group.name}/mask") for group in groups]):
        masks = [
            unpack(part.reshape(group.packed_shape), group.shape[-1]).reshape(-1)
            for part, group in zip(packed, groups, strict=True)
        ]
        yield row, masks, cut[row]


def _top(ties: str, scores: list[Scores], means: Means | None, wanted: int) -> tuple[list[Mask], int | float]:
    cut = (cut_count if scores[0].dtype == np.uint16 else cut_excess)(scores, wanted)
    if ties == "include":
        return [reaching(group, cut) for group in scores], cut
    if ties == "drop":
        return [exceeding(group, cut) for group in scores], cut
    mask = exactly(np.concatenate(scores), means, cut, wanted)
    return np.split(mask, np.cumsum([len(group) for group in scores])[:-1]), cut


def _report(run: Run, sets: Sets) -> None:
    for group in sets.groups:
        size = sets.size(group)
        units = run.groups[group].unit_count
        say(
            f"{group}: {units} units, |S(i)| median {int(np.median(size))} ({np.median(size) / units:.1%}), "
            f"from {size.min()} to {size.max()}"
        )
        if empty := int((size == 0).sum()):
            say(
                f"{group}: S(i) is empty for {empty} of {size.size} instructions; evaluate, compare and ablate will "
                f"refuse this set"
            )
        if few := int((sets.cut(group) == 0).sum()):
            what = "above their own rate" if sets.manifest.selection["selector"] == "excess" else "active"
            say(f"{group}: in {few} instructions fewer units are {what} than the set asks for; these have as many "
                f"as are")  # fmt: skip
