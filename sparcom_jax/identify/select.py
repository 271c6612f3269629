"""Which units are instruction-specific: cuts, tie rules, and the sets written beside the run."""

import hashlib
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Float32, UInt16

from sparcom_jax.errors import InputError
from sparcom_jax.identify.score import at_least, cut_count, exactly
from sparcom_jax.identify.selection import Selection, share_of
from sparcom_jax.progress import progress, say
from sparcom_jax.shares import least_whole_of_each
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import MAX_COUNT, require_name
from sparcom_jax.store.sets import DEFAULT_SET, SetManifest, Sets, open_sets, set_arrays, sets_path
from sparcom_jax.units.bits import pack, unpack
from sparcom_jax.units.groups import EXPERT_GROUP, NEURON_GROUPS, Group

CHUNK_BYTES = 64 << 20

Counts = UInt16[np.ndarray, "_"]
Sums = Float32[np.ndarray, "_"]
Mask = Bool[np.ndarray, "_"]


def identify(run: Run, *, name: str = DEFAULT_SET, **fields: Any) -> Sets:
    """Finds the instruction-specific neurons and experts of every instruction, and the membership of each category.

    Reads the run in chunks of bounded size. A set of the same name is replaced, which is said if it was another. Where
    the capture kept sets of neurons instead of counts, they are taken over as they are.

    Args:
      run: a complete run.
      name: name of the set, below `sets/`.
      **fields: fields of `Selection`; those of neurons are by default the ones that the capture cut by, where it did.

    Returns:
      The sets, as written to the store.

    Raises:
      InputError: the run is incomplete, or a setting is out of range or not the one that the capture cut by.
    """
    kept = run.selection or {}
    selection = Selection(**{**kept, **fields})
    selection.check()
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
    replaced = run.store.read_attributes(sets_path(name))
    run.store.delete_prefix(f"{sets_path(name)}/")
    run.store.write_group("sets")
    digests: dict[str, str] = {}
    with progress("identify", len(cuts) * len(run.category), "instruction cuts") as bar:
        for groups, count in zip(cuts, wanted, strict=True):
            writer = _Writer(run, name, groups)
            as_kept = run.selection is not None and groups[0].name != EXPERT_GROUP
            for row, masks, cut in _kept(run, selection, groups) if as_kept else _cut(run, selection, groups, count):
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


def _cut(run: Run, selection: Selection, groups: list[Group], wanted: int) -> Iterator[tuple[int, list[Mask], float]]:
    """Of every instruction, its masks and the frequency at which it was cut."""
    experts = groups[0].name == EXPERT_GROUP
    least = least_whole_of_each(selection.threshold, run.token_count)  # counts n with n / T >= threshold
    by_mean = (selection.ties == "exact" and selection.selector == "frequency" and not experts
               and run.store.read(f"{groups[0].name}/value_sum/zarr.json") is not None)  # fmt: skip
    arrays = [run.count(group.name) for group in groups]
    if by_mean:
        arrays += [run.store.open_array(f"{group.name}/value_sum") for group in groups]
    for row, parts in _rows(run, arrays):
        counts, sums = parts[: len(groups)], parts[len(groups) :]
        tokens = int(run.token_count[row])
        if experts and selection.expert_epsilon == 0:
            layers = [_top(selection.ties, [layer], [], wanted, tokens) for layer in counts[0].reshape(groups[0].shape)]
            # The cut that is recorded is the lowest of the layers'.
            yield row, [np.concatenate([mask for (mask,), _ in layers])], min(cut for _, cut in layers)
        elif selection.selector == "threshold" and not experts:
            yield row, [at_least(group, int(least[row])) for group in counts], selection.threshold
        else:
            yield row, *_top(selection.ties, counts, sums, wanted, tokens)


def _kept(run: Run, selection: Selection, groups: list[Group]) -> Iterator[tuple[int, list[Mask], float]]:
    """The same, as the capture cut it."""
    cut = run.read(f"{groups[0].name}/cut_count") / run.token_count
    if selection.selector == "threshold":
        cut[:] = selection.threshold
    for row, packed in _rows(run, [run.store.open_array(f"{group.name}/mask") for group in groups]):
        masks = [
            unpack(part.reshape(group.packed_shape), group.shape[-1]).reshape(-1)
            for part, group in zip(packed, groups, strict=True)
        ]
        yield row, masks, cut[row]


def _top(ties: str, counts: list[Counts], sums: list[Sums], wanted: int, tokens: int) -> tuple[list[Mask], float]:
    cut = cut_count(counts, wanted)
    if ties == "include":
        return [at_least(group, cut) for group in counts], cut / tokens
    if ties == "drop":
        return [at_least(group, cut + 1) for group in counts], cut / tokens
    means = np.concatenate(sums) / np.float32(tokens) if sums else None
    mask = exactly(np.concatenate(counts), means, cut, wanted)
    return np.split(mask, np.cumsum([len(group) for group in counts])[:-1]), cut / tokens


def _rows(run: Run, arrays: list[ts.TensorStore]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Each instruction's part of arrays `[I, ...]`, flat, read in chunks, the next while the last is worked on."""
    row_bytes = sum(array.dtype.numpy_dtype.itemsize * math.prod(array.shape[1:]) for array in arrays)
    step = run.rows_per_write
    while step > 1 and step * row_bytes > CHUNK_BYTES:
        step //= 2
    slices = [slice(start, min(start + step, len(run.category))) for start in range(0, len(run.category), step)]
    ahead = [[array[slices[0]].read() for array in arrays]]
    for index, rows in enumerate(slices):
        if index + 1 < len(slices):
            ahead.append([array[slices[index + 1]].read() for array in arrays])
        parts = [np.asarray(finished(future, run.location)) for future in ahead.pop(0)]
        for at, row in enumerate(range(rows.start, rows.stop)):
            yield row, [part[at].reshape(-1) for part in parts]


class _Writer:
    """Writes the sets of some groups, block by block, and counts the categories' members along the way."""

    def __init__(self, run: Run, name: str, groups: list[Group]) -> None:
        self._run = run
        self._groups = groups
        rows, categories = len(run.category), len(run.categories)
        self._path = {group.name: f"{sets_path(name)}/{group.name}" for group in groups}
        self._arrays = {
            spec.name: run.store.create_array(spec)
            for group in groups
            for spec in set_arrays(name, group, rows, run.rows_per_write, categories)
        }
        self._members = [np.zeros((categories, group.unit_count), np.uint16) for group in groups]
        self._sizes = [np.zeros(rows, np.uint32) for _ in groups]
        self._cut = np.zeros(rows)
        self._packed: list[list[np.ndarray]] = [[] for _ in groups]
        self._digests = [hashlib.sha256() for _ in groups]
        self._writing: list[Any] = []
        for group in groups:
            run.store.write_group(self._path[group.name])

    def add(self, row: int, masks: list[Mask], cut: float) -> None:
        """Takes the sets of the next instruction."""
        self._cut[row] = cut
        for index, (group, mask) in enumerate(zip(self._groups, masks, strict=True)):
            self._members[index][self._run.category[row]] += mask
            self._sizes[index][row] = np.count_nonzero(mask)
            self._packed[index].append(pack(mask.reshape(group.shape)))
        if len(self._packed[0]) == self._run.rows_per_write or row + 1 == len(self._cut):
            self._write_block(slice(row + 1 - len(self._packed[0]), row + 1))

    def finish(self) -> dict[str, str]:
        """Waits for all that is being written, and writes what is known at the end.

        Returns:
          Of each group the digest of its masks.
        """
        for group, members, sizes in zip(self._groups, self._members, self._sizes, strict=True):
            path = self._path[group.name]
            for array, values in (("size", sizes), ("cut", self._cut), ("membership", members)):
                target = self._arrays[f"{path}/{array}"]
                self._writing.append(target.write(values.reshape(target.shape)))
        self._wait()
        return {group.name: of.hexdigest() for group, of in zip(self._groups, self._digests, strict=True)}

    def _write_block(self, rows: slice) -> None:
        self._wait()
        for index, group in enumerate(self._groups):
            block = np.stack(self._packed[index])
            self._digests[index].update(block.data)
            self._writing.append(self._arrays[f"{self._path[group.name]}/mask"][rows].write(block))
            self._packed[index] = []

    def _wait(self) -> None:
        for future in self._writing:
            finished(future, self._run.location)
        self._writing = []


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
        everything = int((sets.cut(group) == 0).sum())
        if everything and sets.manifest.selection["ties"] == "include":
            say(
                f"{group}: {everything} instructions are cut at frequency 0, so all units tie and all are taken; "
                f"a smaller epsilon, ties=drop or ties=exact avoids that"
            )
