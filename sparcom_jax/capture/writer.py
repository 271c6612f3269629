"""What a capture writes: the arrays of its statistics, block by block, and the rows with what is known of each."""

import collections
import io
import json
from typing import Any

import jax
import numpy as np
import tensorstore as ts

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.step import Kept
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.schema import vector
from sparcom_jax.units.groups import Group

BLOCK_BYTES = 1 << 30
MAX_ROWS_PER_BLOCK = 512
BLOCKS_IN_FLIGHT = 2
DONE = "instruction/done"


class BlockWriter:
    """Writes blocks of instructions, each while the next is computed; `done` follows when all of a block is durable.

    Attributes:
      done: which instructions were done when the writer was made.
    """

    def __init__(self, store: Store, groups: list[Group], kept: Kept, rows: int, rows_per_block: int) -> None:
        """Makes the arrays, or opens those of a run that goes on.

        Args:
          store: the run.
          groups: the model's neuron groups.
          kept: what is kept of them.
          rows: number of instructions I.
          rows_per_block: instructions that are written together.
        """
        specs = [one.array(group, rows, rows_per_block) for group in groups for one in kept.statistics(group)]
        specs.append(vector(DONE, "uint8", "instruction", rows, rows_per_block))
        if jax.process_index() == 0:
            for group in groups:
                store.write_group(group.name)
                layers = vector(f"{group.name}/layer", "int32", "layer", len(group.layers))
                finished(store.create_array(layers).write(np.asarray(group.layers, layers.dtype)), store.location)
        self._arrays: dict[str, ts.TensorStore] = {spec.name: store.create_array(spec) for spec in specs}
        self._location = store.location
        self._writing: collections.deque[tuple[slice, list[Any]]] = collections.deque()
        self.done = self.read_done()

    def read_done(self) -> np.ndarray:
        """Which instructions are done by now, this and the other processes' together, `[I]` bool."""
        return np.asarray(finished(self._arrays[DONE].read(), self._location)) > 0

    def write(self, rows: slice, results: dict[str, np.ndarray]) -> None:
        """Begins to write a block, and waits for an earlier one where too many are being written.

        Args:
          rows: the instructions.
          results: array name -> `[rows, ...]`.
        """
        self._writing.append((rows, [self._arrays[name][rows].write(values) for name, values in results.items()]))
        if len(self._writing) >= BLOCKS_IN_FLIGHT:
            self._finish()

    def finish(self) -> None:
        """Waits until all is durable."""
        while self._writing:
            self._finish()

    def _finish(self) -> None:
        rows, futures = self._writing.popleft()
        for future in futures:
            finished(future, self._location)
        finished(self._arrays[DONE][rows].write(np.uint8(1)), self._location)


def rows_of_a_block(groups: list[Group], kept: Kept) -> int:
    """Instructions that are written together, a power of two: at most so many bytes."""
    row_bytes = sum(one.row_bytes(group) for group in groups for one in kept.statistics(group))
    rows = MAX_ROWS_PER_BLOCK
    while rows > 1 and rows * row_bytes > BLOCK_BYTES:
        rows //= 2
    return rows


def write_rows(
    store: Store, instructions: InstructionSet, texts: TokenizedSet, generated: TokenizedSet | None, tokenizer: Any
) -> None:
    """The rows, with what is known of each once its tokens are: how many count, and what was generated, as text."""
    store.write_group("instruction")
    columns = {
        vector("instruction/category", "uint8", "instruction", len(texts.ids)): instructions.category_index(),
        vector("instruction/token_count", "uint32", "instruction", len(texts.ids)): texts.counted,
    }
    for spec, content in columns.items():
        finished(store.create_array(spec).write(np.asarray(content, spec.dtype)), store.location)
    lines = io.BytesIO()  # one copy of the texts, not one as lines, one joined and one encoded
    for index, row in enumerate(instructions.rows):
        known = {"token_count": int(texts.counted[index])}
        if generated is not None:
            known |= {"generated": tokenizer.decode(generated.ids[index][generated.counting(index)])}
        lines.write(json.dumps({**row, **known}, ensure_ascii=False).encode() + b"\n")
    store.write("instructions.jsonl", lines.getvalue())
