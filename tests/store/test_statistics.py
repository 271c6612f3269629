"""The table of statistics: what is stored is what the table says."""

import numpy as np
import pytest

from sparcom_jax.capture.step import Kept
from sparcom_jax.capture.writer import BLOCK_BYTES, MAX_ROWS_PER_BLOCK, rows_of_a_block
from sparcom_jax.identify.selection import Selection
from sparcom_jax.store.statistics import kept_statistics
from sparcom_jax.units.groups import Group

MLP = Group("mlp", (0, 2), ("neuron",), (20,))
ROUTED = Group("routed", (1,), ("expert", "neuron"), (4, 11))


@pytest.mark.parametrize(("group", "sets", "values", "expected"), [
    (MLP, False, False, {"positive_count": ("uint16", (9, 2, 20))}),
    (MLP, False, True, {"positive_count": ("uint16", (9, 2, 20)), "value_sum": ("float32", (9, 2, 20)),
                        "value_max": ("float32", (9, 2, 20))}),
    (MLP, True, False, {"mask": ("uint8", (9, 2, 3)), "cut_count": ("uint16", (9,))}),
    (ROUTED, True, False, {"mask": ("uint8", (9, 1, 4, 2)), "cut_count": ("uint16", (9,)),
                           "selected_count": ("uint16", (9, 1, 4)), "gate_sum": ("float32", (9, 1, 4))}),
    (ROUTED, False, True, {"positive_count": ("uint16", (9, 1, 4, 11)), "value_sum": ("float32", (9, 1, 4, 11)),
                           "value_max": ("float32", (9, 1, 4, 11)), "selected_count": ("uint16", (9, 1, 4)),
                           "gate_sum": ("float32", (9, 1, 4)), "norm_sum": ("float32", (9, 1, 4))}),
])  # fmt: skip
def test_arrays(group: Group, sets: bool, values: bool, expected: dict[str, tuple[str, tuple[int, ...]]]) -> None:
    kept = kept_statistics(group, sets=sets, values=values)
    specs = {one.name: one.array(group, 9, 4) for one in kept}
    assert {name: (spec.dtype, spec.shape) for name, spec in specs.items()} == expected
    assert all(spec.name == f"{group.name}/{name}" for name, spec in specs.items())
    for one in kept:
        dtype, shape = expected[one.name]
        assert one.row_bytes(group) == np.zeros(shape, dtype)[0].nbytes


@pytest.mark.parametrize(("neurons", "kept", "rows"), [
    (1024, Kept(), MAX_ROWS_PER_BLOCK),
    (BLOCK_BYTES // 512, Kept(), 256),
    (BLOCK_BYTES // 512, Kept(values=True), 32),
    (BLOCK_BYTES // 512, Kept(selection=Selection()), MAX_ROWS_PER_BLOCK),
    (BLOCK_BYTES, Kept(), 1),
])  # fmt: skip
def test_a_block_is_as_large_as_its_bytes_allow(neurons: int, kept: Kept, rows: int) -> None:
    assert rows_of_a_block([Group("mlp", (0,), ("neuron",), (neurons,))], kept) == rows
