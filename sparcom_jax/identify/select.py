"""Which units are instruction-specific: cuts, tie rules, and the sets written beside the run."""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt16

from sparcom_jax.errors import InputError
from sparcom_jax.identify.score import at_least, cut_counts, exactly, membership, pack
from sparcom_jax.progress import progress, say
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import EXPERT_GROUP, NEURON_GROUPS, Group
from sparcom_jax.store.sets import Sets, open_sets, set_arrays, sets_path

CHUNK_BYTES = 256 << 20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Selection:
    """How S(i) is chosen; recorded with the sets.

    Attributes:
      selector: `frequency` takes the top `epsilon` share of the units by activation frequency; `threshold` takes those
        whose frequency reaches `threshold`.
      epsilon: share of the units of a group, in (0, 1]: k = ceil(epsilon U).
      threshold: least activation frequency, in (0, 1], for the selector `threshold`.
      ties: units that tie at the cut: `include` takes all of them, `drop` none, `exact` as many as fill k, by falling
        mean activation where it is stored, then by index.
      pool: cut all neuron groups together instead of each by itself.
      expert_per_layer: experts taken in each layer; 0 takes as many as a token is routed to.
      expert_epsilon: if above 0, experts are taken as a top share over all layers instead.
    """

    selector: str = "frequency"
    epsilon: float = 0.05
    threshold: float = 0.9
    ties: str = "include"
    pool: bool = False
    expert_per_layer: int = 0
    expert_epsilon: float = 0.0


def identify(run: Run, *, name: str = "frequency", **fields: Any) -> Sets:
    """Finds the instruction-specific neurons and experts of every instruction, and the membership of each category.

    Reads the run in chunks of bounded size. A set of the same name is replaced.

    Args:
      run: a complete run.
      name: name of the set, below `sets/`.
      **fields: fields of `Selection`.

    Returns:
      The sets, as written to the store.

    Raises:
      InputError: the run is incomplete, or a setting is out of range.
    """
    selection = Selection(**fields)
    _check(selection, name)
    run.require_complete()
    run.store.delete_prefix(f"{sets_path(name)}/")
    run.store.write_group("sets")
    neurons = [run.groups[group] for group in NEURON_GROUPS if group in run.groups]
    cuts = [neurons] if selection.pool else [[group] for group in neurons]
    if EXPERT_GROUP in run.groups:
        cuts.append([run.groups[EXPERT_GROUP]])
    with progress("identify", len(cuts) * len(run.category), "instruction cuts") as bar:
        for groups in cuts:
            writer = _Writer(run, name, groups)
            for rows, counts in _chunks(run, groups):
                masks, cut = _select(run, selection, groups, rows, counts)
                writer.write(rows, masks, cut)
                bar.advance(rows.stop - rows.start)
            writer.finish()
    attributes = {**asdict(selection), "groups": [group.name for groups in cuts for group in groups]}
    run.store.write_group(sets_path(name), attributes)
    sets = open_sets(run, name)
    _report(run, sets)
    return sets


def _select(
    run: Run, selection: Selection, groups: list[Group], rows: slice, counts: list[UInt16[Array, "I _"]]
) -> tuple[list[Bool[Array, "I _"]], np.ndarray]:
    """Masks of a chunk of instructions, and the frequencies at which they were cut."""
    tokens = np.asarray(run.token_count[rows], np.int64)
    if groups[0].name == EXPERT_GROUP and selection.expert_epsilon == 0:
        return _top_of_each_layer(run, selection, groups[0], counts[0], tokens)
    if selection.selector == "threshold" and groups[0].name != EXPERT_GROUP:
        # The smallest count whose quotient by T reaches the threshold, in the arithmetic that a reader would use.
        least = np.ceil(selection.threshold * tokens).astype(np.int64)
        least -= (least - 1) / tokens >= selection.threshold
        least += least / tokens < selection.threshold
        cut = np.full(len(tokens), selection.threshold)
        return [at_least(group, jnp.asarray(least, jnp.int32)) for group in counts], cut
    share = selection.expert_epsilon if groups[0].name == EXPERT_GROUP else selection.epsilon
    wanted = math.ceil(share * sum(group.unit_count for group in groups))
    return _top(run, selection.ties, groups, rows, counts, wanted, tokens)


def _top(
    run: Run,
    ties: str,
    groups: list[Group],
    rows: slice,
    counts: list[UInt16[Array, "I _"]],
    wanted: int,
    tokens: np.ndarray,
) -> tuple[list[Bool[Array, "I _"]], np.ndarray]:
    cut = cut_counts(counts, jnp.asarray(wanted, jnp.int32))
    frequency = np.asarray(cut) / tokens
    if ties == "include":
        return [at_least(group, cut) for group in counts], frequency
    if ties == "drop":
        return [at_least(group, cut + 1) for group in counts], frequency
    widths = np.cumsum([group.shape[1] for group in counts])[:-1]
    together = jnp.concatenate(counts, axis=1)
    room = wanted - jnp.sum(together.astype(jnp.int32) > cut[:, None], axis=1)
    mask = exactly(together, _means(run, groups, rows, tokens), cut, room)
    return jnp.split(mask, widths.tolist(), axis=1), frequency


def _top_of_each_layer(
    run: Run,
    selection: Selection,
    group: Group,
    counts: UInt16[Array, "I _"],
    tokens: np.ndarray,
) -> tuple[list[Bool[Array, "I _"]], np.ndarray]:
    """The top experts of every layer. The cut that is recorded is the lowest of the layers'."""
    layers, experts = group.shape
    wanted = selection.expert_per_layer or int(run.attributes["model"]["num_experts_per_tok"])
    if wanted > experts:
        raise InputError(f"{run.location}: expert_per_layer {wanted} is more than the {experts} experts of a layer")
    by_layer = counts.reshape(-1, experts)
    each = Group(EXPERT_GROUP, group.layers[:1], group.dims, group.sizes)
    repeated = np.repeat(tokens, layers)
    (mask,), cut = _top(run, selection.ties, [each], slice(0), [by_layer], wanted, repeated)
    return [mask.reshape(len(tokens), -1)], cut.reshape(-1, layers).min(axis=1)


def _means(run: Run, groups: list[Group], rows: slice, tokens: np.ndarray) -> Array | None:
    if groups[0].name == EXPERT_GROUP or not run.attributes["capture"]["values"]:
        return None
    sums = [run.store.open_array(f"{group.name}/value_sum")[rows].read().result() for group in groups]
    return jnp.concatenate(
        [jnp.asarray(part.reshape(len(part), -1) / tokens[:, None].astype(np.float32)) for part in sums], 1
    )


def _chunks(run: Run, groups: list[Group]) -> Iterator[tuple[slice, list[UInt16[Array, "I _"]]]]:
    """Reads the counts of groups in chunks of instructions, the next while the last is worked on."""
    arrays = [run.count(group.name) for group in groups]
    row_bytes = 16 * sum(group.unit_count for group in groups)
    step = run.rows_per_write
    while step > 1 and step * row_bytes > CHUNK_BYTES:
        step //= 2
    slices = [slice(start, min(start + step, len(run.category))) for start in range(0, len(run.category), step)]
    ahead = [[array[slices[0]].read() for array in arrays]]
    for index, rows in enumerate(slices):
        if index + 1 < len(slices):
            ahead.append([array[slices[index + 1]].read() for array in arrays])
        parts = [future.result() for future in ahead.pop(0)]
        yield rows, [jnp.asarray(part.reshape(len(part), -1)) for part in parts]


class _Writer:
    """Writes the sets of some groups, chunk by chunk, and counts the categories' members along the way."""

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
        self._members = [np.zeros((categories, group.unit_count), np.int32) for group in groups]
        self._sizes = [np.zeros(rows, np.uint32) for _ in groups]
        self._cut = np.zeros(rows)
        for group in groups:
            run.store.write_group(self._path[group.name])

    def write(self, rows: slice, masks: list[Bool[Array, "I _"]], cut: np.ndarray) -> None:
        self._cut[rows] = cut
        category = jnp.asarray(self._run.category[rows])
        futures = []
        for index, (group, mask) in enumerate(zip(self._groups, masks, strict=True)):
            self._members[index] += np.asarray(membership(mask, category, categories=len(self._run.categories)))
            self._sizes[index][rows] = np.asarray(jnp.sum(mask, axis=1))
            packed = np.asarray(pack(mask.reshape(-1, *group.shape)))
            futures.append(self._arrays[f"{self._path[group.name]}/mask"][rows].write(packed))
        for future in futures:
            future.result()

    def finish(self) -> None:
        for group, members, sizes in zip(self._groups, self._members, self._sizes, strict=True):
            path = self._path[group.name]
            by_unit = members.astype(np.uint16).reshape(-1, *group.shape)
            for array, values in (("size", sizes), ("cut", self._cut), ("membership", by_unit)):
                self._arrays[f"{path}/{array}"].write(values).result()


def _check(selection: Selection, name: str) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"name {name!r} must be letters, digits, '.', '_' and '-'")
    if selection.selector not in ("frequency", "threshold"):
        raise InputError(f"selector {selection.selector!r} is not known; known: frequency, threshold")
    if selection.ties not in ("include", "drop", "exact"):
        raise InputError(f"ties {selection.ties!r} is not known; known: include, drop, exact")
    for field in ("epsilon", "threshold"):
        if not 0 < getattr(selection, field) <= 1:
            raise InputError(f"{field} must be within (0, 1], got {getattr(selection, field)}")
    if not 0 <= selection.expert_epsilon <= 1 or selection.expert_per_layer < 0:
        raise InputError(
            f"expert_epsilon {selection.expert_epsilon} and expert_per_layer {selection.expert_per_layer} "
            f"must be 0 or positive, the former at most 1"
        )


def _report(run: Run, sets: Sets) -> None:
    for group in sets.groups:
        size = sets.size(group)
        units = run.groups[group].unit_count
        say(
            f"{group}: {units} units, |S(i)| median {int(np.median(size))} ({np.median(size) / units:.1%}), "
            f"from {size.min()} to {size.max()}"
        )
        everything = int((sets.cut(group) == 0).sum())
        if everything and sets.attributes["ties"] == "include":
            say(
                f"{group}: {everything} instructions are cut at frequency 0, so all units tie and all are taken; "
                f"a smaller epsilon, ties=drop or ties=exact avoids that"
            )
