"""The counts of a run, instruction by instruction, read ahead in bounded memory."""

import math
from collections.abc import Iterator

import numpy as np
import tensorstore as ts

from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run

CHUNK_BYTES = 64 << 20


def rows_of(run: Run, arrays: list[ts.TensorStore]) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Each instruction's part of some arrays, read in chunks, the next while the last is worked on.

    Args:
      run: the run that they belong to.
      arrays: each `[I, ...]`.

    Yields:
      The row, and of every array its part, flat.
    """
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
