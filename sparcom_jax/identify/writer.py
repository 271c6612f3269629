"""Writes S(i), block by block, with the membership of each category."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import set_arrays, sets_path
from sparcom_jax.units.bits import pack
from sparcom_jax.units.groups import Group


class SetWriter:
    """Writes the sets of some groups, block by block, and counts the categories' members along the way."""

    def __init__(self, run: Run, name: str, groups: Sequence[Group]) -> None:
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

    def add(self, row: int, masks: Sequence[Bool[np.ndarray, "_"]], cut: float) -> None:
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
