"""A pass over the counts of a run by units: all instructions of a sample, block by block, in bounded memory."""

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from jaxtyping import Float32, UInt16

from sparcom_jax.progress import progress
from sparcom_jax.select.sample import Sample
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import Group

READ_BYTES = 256 << 20
"""Counts that are read at once; two such parts are held. A layer that is larger is read in parts, each of which costs
the decompression of the layer."""
TILE_VALUES = 1 << 20
"""Counts that are scored at once: what is made of them stays near the cores."""

Measure = Callable[[UInt16[np.ndarray, "I U"], Sample], Float32[np.ndarray, "K C U"]]
"""Of the counts of some units, K values of every category and unit."""
Kept = dict[str, Float32[np.ndarray, "K C *units"]]
"""By group, what a measure gave."""


def measure_units(run: Run, groups: Mapping[str, Group], sample: Sample, measures: Mapping[str, Measure]
                  ) -> dict[str, Kept]:  # fmt: skip
    """Applies measures to all units of some groups, in one pass over their counts.

    Args:
      run: a run that keeps counts.
      groups: the groups, by name.
      sample: the instructions.
      measures: by name.

    Returns:
      By measure, what it gave.

    Raises:
      InputError: the run keeps sets instead of the counts of a group, or the store fails.
    """
    kept: dict[str, Kept] = {name: {} for name in measures}
    with progress("select", sum(len(group.layers) for group in groups.values()), "layers") as bar:
        for group in groups.values():
            found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
            width = group.unit_count // len(group.layers)
            done = 0
            for counts in _blocks(run, group, sample):
                step = max(TILE_VALUES // len(counts), 1)
                for start in range(0, counts.shape[1], step):
                    tile = np.ascontiguousarray(counts[:, start : start + step])
                    for name, measure in measures.items():
                        found[name].append(measure(tile, sample))
                before, done = done, done + counts.shape[1]
                bar.advance(done // width - before // width)
            for name, parts in found.items():
                whole = np.concatenate(parts, axis=2)
                kept[name][group.name] = whole.reshape(*whole.shape[:2], *group.shape)
    return kept


def _blocks(run: Run, group: Group, sample: Sample) -> Iterator[UInt16[np.ndarray, "I U"]]:
    """The counts of a group, unit after unit; the next block is read while the last is worked on."""
    array = run.count(group.name)
    parts = list(_parts(group, len(run.category)))
    ahead = array[parts[0]].read()
    for index in range(len(parts)):
        read = np.asarray(finished(ahead, run.location))
        if index + 1 < len(parts):
            ahead = array[parts[index + 1]].read()
        flat = read.reshape(len(read), -1)
        yield flat if len(sample.rows) == len(flat) else flat[sample.rows]


def _parts(group: Group, rows: int) -> Iterator[tuple[slice, int, slice]]:
    """Indices of the blocks: a layer, or of a large one some of its experts or neurons."""
    size = 2 * rows * math.prod(group.sizes[1:])
    step = min(max(READ_BYTES // size, 1), group.sizes[0])
    for layer in range(len(group.layers)):
        for start in range(0, group.sizes[0], step):
            yield slice(None), layer, slice(start, min(start + step, group.sizes[0]))
