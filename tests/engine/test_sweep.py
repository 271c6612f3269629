"""A sweep: every text once, at its own row, whatever the batches, their shapes and the devices."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from sparcom_jax.batches.packing import Bin, feeds
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine import sweep as sweep_module
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import Placement, Step, make_placement, one_device
from sparcom_jax.engine.processes import own_blocks
from sparcom_jax.engine.sweep import finite_sweep, sweep
from sparcom_jax.errors import InputError
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.faults import ALL_FINITE

SMALL, LARGE = Shape(128, 128, 8), Shape(256, 128, 8)
BINS = [Bin(SMALL, (0, 3)), Bin(LARGE, (1,)), Bin(SMALL, (2,)), Bin(SMALL, (5, 4, 6)), Bin(LARGE, (8, 7))]


def texts() -> TokenizedSet:
    lengths = np.asarray([3, 90, 5, 40, 1, 7, 2, 60, 11], np.int32)
    ids = [np.arange(row, row + length, dtype=np.int32) for row, length in enumerate(lengths)]
    return TokenizedSet(ids, np.zeros_like(lengths), lengths, {})


def sums(placement: Placement, config: Any) -> Any:
    """A step that knows nothing of models: of each text, the sum of its tokens and a number that is given."""

    def step_of(shape: Shape) -> Step:
        def step(params: Any, batch: Any, extra: Any) -> Any:
            del params
            total = jax.ops.segment_sum(jnp.where(batch.counted, batch.token, 0), batch.row, shape.rows) + extra
            # Where several devices share a batch, the last of them sees a fault in the texts of odd sums.
            seen = placement.axis is None or jax.lax.axis_index(placement.axis) == placement.model - 1
            return {"sum": total}, jnp.where((total % 2 == 1) & seen, 3, ALL_FINITE)[None]

        return placement.compile(step, config, P(), ({"sum": P()}, P("model")))

    return step_of


@pytest.mark.parametrize("kind", ["one", "pmap", "mesh:2"])
def test_every_text_comes_out_once(kind: str, llama: ModelDir) -> None:
    placement = one_device() if kind == "one" else make_placement(kind, llama.config)
    placed, read = place_model(llama, placement, "float32"), texts()
    found = {}
    fed = feeds(read, BINS, placement.data, read.counting)
    for one in sweep(placed, fed, sums(placement, llama.config), jnp.int32(10)):
        for at, text in enumerate(one.texts):
            assert text not in found
            found[text] = (int(one.values["sum"][at]), int(one.fault[at]))
        assert not one.values["sum"][len(one.texts) :].any() or (one.values["sum"][len(one.texts) :] == 10).all()
    expected = {text: int(ids.sum()) + 10 for text, ids in enumerate(read.ids)}
    assert found == {text: (total, 3 if total % 2 else ALL_FINITE) for text, total in expected.items()}


def test_the_first_call_of_a_step_is_told_as_its_compilation(llama: ModelDir, monkeypatch: pytest.MonkeyPatch) -> None:
    told = []

    @contextmanager
    def compiling() -> Iterator[None]:
        told.append("begun")
        yield
        told.append("ended")

    monkeypatch.setattr(sweep_module, "compiling", compiling)
    placement = one_device()
    placed, read, made = place_model(llama, placement, "float32"), texts(), sums(placement, llama.config)
    steps = {shape: made(shape) for shape in (SMALL, LARGE)}
    for _ in range(2):
        assert len(list(sweep(placed, feeds(read, BINS, 1, read.counting), steps.__getitem__, jnp.int32(0)))) == 5
    assert sorted(told) == ["begun"] * 2 + ["ended"] * 2


def test_faults_name_the_texts(llama: ModelDir) -> None:
    placement = one_device()
    placed, read = place_model(llama, placement, "float32"), texts()
    odd = next(one for one in BINS if any(int(read.ids[text].sum()) % 2 for text in one.texts))
    fed = feeds(read, [odd], placement.data, read.counting)
    named = [f"t{text}" for text in sorted(odd.texts) if int(read.ids[text].sum()) % 2]
    listed = ", ".join(f"{name} (layer 1)" for name in named)
    with pytest.raises(InputError) as error:
        list(
            finite_sweep(placed, fed, sums(placement, llama.config), [f"t{n}" for n in range(9)], jnp.int32(0), " now")
        )
    assert str(error.value).startswith(f"not finite in float32 now: instruction {listed}; ")


def test_batches_of_a_feed_have_one_shape_and_padding_where_bins_are_missing() -> None:
    read = texts()
    fed = list(feeds(read, BINS, 2, read.counting))
    assert [[one.texts for one in feed.bins] for feed in fed] == [[(0, 3), (2,)], [(5, 4, 6)], [(1,), (8, 7)]]
    assert fed[1].batch.token.shape == (2, 128)
    assert (fed[1].batch.row[1] == SMALL.rows).all()
    assert not fed[1].batch.counted[1].any()
    np.testing.assert_array_equal(fed[2].batch.token[0, :90], read.ids[1])


def test_own_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    done = np.asarray([1, 1, 1, 0, 1, 1, 0], bool)
    assert own_blocks(done, 2) == [slice(2, 4), slice(6, 7)]
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert own_blocks(done, 2) == [slice(2, 4), slice(6, 7)]
    monkeypatch.setattr(jax, "process_index", lambda: 0)
    assert own_blocks(done, 2) == []
