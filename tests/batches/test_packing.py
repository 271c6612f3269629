"""Plans of batches: every text once, none too wide, the same plan each time."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sparcom_jax.batches.packing import fill, make_plan
from sparcom_jax.models.kernels.attention import longest_text

lengths_of = st.lists(st.integers(1, 900), min_size=1, max_size=60)


@settings(max_examples=80, deadline=None)
@given(lengths_of, st.sampled_from([1, 4, 16, 64]), st.sampled_from([128, 512, 2048]))
def test_every_text_lies_in_one_bin_of_its_block(lengths: list[int], rows_per_block: int, batch_tokens: int) -> None:
    plan = make_plan(np.asarray(lengths), rows_per_block, batch_tokens)
    for index, block in enumerate(plan.blocks):
        texts = sorted(text for one in block for text in one.texts)
        first = index * rows_per_block
        assert texts == list(range(first, min(first + rows_per_block, len(lengths))))
        for one in block:
            assert sum(lengths[text] for text in one.texts) <= one.shape.slots == plan.slots
            assert len(one.texts) <= one.shape.rows <= max(plan.slots // 16, 8)
            assert max(lengths[text] for text in one.texts) <= longest_text(one.shape.window)
    shapes = {one.shape for block in plan.blocks for one in block}
    assert len(shapes) == len({shape.window for shape in shapes})
    assert plan == make_plan(np.asarray(lengths), rows_per_block, batch_tokens)
    bins = sum(len(block) for block in plan.blocks)
    assert plan.filled == sum(lengths) / (bins * plan.slots)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=0, max_size=8))
def test_fill(lengths: list[int]) -> None:
    shape = make_plan(np.asarray([240]), 1, 256).blocks[0][0].shape
    ids = [np.full(length, 7 + index, np.int32) for index, length in enumerate(lengths)]
    batch = fill(shape, ids, [text > 8 for text in ids], [2 * index for index in range(len(ids))])
    assert (np.diff(batch.row) >= 0).all()
    for index, text in enumerate(ids):
        at = batch.row == index
        np.testing.assert_array_equal(batch.token[at], text)
        np.testing.assert_array_equal(batch.position[at], np.arange(len(text)))
        assert batch.counted[at].all() == (index > 1)
        assert (batch.variant[at] == 2 * index).all()
    padding = batch.row == shape.rows
    assert padding.sum() == shape.slots - sum(lengths)
    assert not batch.counted[padding].any()
    assert not batch.variant[padding].any()
    assert not fill(shape, ids, [text > 8 for text in ids]).variant.any()


def test_long_and_short_texts_are_dealt_out_evenly() -> None:
    """Each text that a batch can hold costs memory, and a batch must hold as many as the fullest one."""
    plan = make_plan(np.asarray([20] * 160 + [200] * 40), 512, 1024)
    (shape,) = {one.shape for block in plan.blocks for one in block}
    assert shape.rows <= 24  # 18 a bin on average; 51 of the short ones would fill one
    assert plan.filled > 0.99
