"""Packing texts into batches: a fixed number of token slots, texts one after another, few compiled shapes.

The plan follows from the lengths alone, so a resumed run makes the same batches, and these make the same bits.
"""

import heapq
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Int, Int32

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.kernels.attention import QUERY_BLOCK, window_for
from sparcom_jax.models.kernels.choice import default_kernels

Variants = Callable[[int], Int32[np.ndarray, "_"]]
"""Of a text, by its number, which variant of the edits each of its tokens is under."""

MIN_ROWS = 8
SLOTS_PER_ROW = 16


@dataclass(frozen=True)
class Bin:
    """The texts of one batch, in the order in which they lie in it."""

    shape: Shape
    texts: tuple[int, ...]


class Feed(NamedTuple):
    """What the devices take in one step.

    Attributes:
      bins: bins of equal shape, one a device; of devices beyond them the batch is padding.
      batch: their batches, on a leading axis of devices.
    """

    bins: tuple[Bin, ...]
    batch: Batch

    @property
    def shape(self) -> Shape:
        """The sizes of the batch of each device."""
        return self.bins[0].shape


@dataclass(frozen=True)
class Plan:
    """Batches for all texts, grouped by blocks of texts that are written together.

    Attributes:
      blocks: for each block of consecutive texts, its bins.
      slots: token slots S of every batch.
      filled: share of all slots that hold a token.
    """

    blocks: tuple[tuple[Bin, ...], ...]
    slots: int
    filled: float


def make_plan(
    lengths: Int[np.ndarray, "I"], rows_per_block: int, batch_tokens: int, most_rows: int | None = None
) -> Plan:
    """Packs texts into bins, block by block.

    Except on CPU, a bin costs what its attention window costs, whatever else is in it; so short texts fill up the bins
    of long ones. The bins of a window have about as many texts each, because each text that a shape can hold costs
    memory.

    Args:
      lengths: tokens of each text.
      rows_per_block: consecutive texts that are packed together.
      batch_tokens: token slots of a batch; more where a text needs them, fewer where all texts need fewer.
      most_rows: texts of a batch, at most, where each of them costs much memory; None leaves it to the slots.
    """
    slots = shape_for(lengths, batch_tokens).slots
    max_rows = min(max(slots // SLOTS_PER_ROW, MIN_ROWS), most_rows or slots)
    packed = [
        [
            (_window(int(lengths[texts[0]])), tuple(texts))
            for texts in _pack(lengths, range(start, min(start + rows_per_block, len(lengths))), slots, max_rows)
        ]
        for start in range(0, len(lengths), rows_per_block)
    ]
    rows_of_window: dict[int, int] = {}
    for window, texts in (one for block in packed for one in block):
        rows_of_window[window] = max(rows_of_window.get(window, 0), _round_up(len(texts), MIN_ROWS))
    blocks = tuple(
        tuple(Bin(Shape(slots, window, rows_of_window[window]), texts) for window, texts in block) for block in packed
    )
    bins = sum(len(block) for block in blocks)
    return Plan(blocks, slots, float(lengths.sum()) / (bins * slots))


def alike(lengths: Int[np.ndarray, "I"], start: int, count: int, batch_tokens: int) -> list[Bin]:
    """Texts of like length in the same bin, for what is reckoned by its longest text: a cache.

    The texts of a bin have at most `slots / rows` tokens, a power of two.

    Args:
      lengths: tokens of all texts.
      start: the first text of those that are packed,
      count: and how many they are.
      batch_tokens: token slots of a batch; more where one text needs them.
    """
    texts = np.arange(start, start + count)
    most = np.asarray([max(QUERY_BLOCK // 2, _power_of_two(int(length))) for length in lengths[texts]])
    bins = []
    for size in np.unique(most).tolist():
        members = texts[most == size].tolist()
        rows = min(max(batch_tokens // size, 1), _power_of_two(len(members)))
        shape = Shape(rows * size, _window(size), rows)
        bins += [Bin(shape, tuple(members[first : first + rows])) for first in range(0, len(members), rows)]
    return bins


def shape_for(lengths: Int[np.ndarray, "I"], batch_tokens: int) -> Shape:
    """One shape for batches of whatever texts.

    Args:
      lengths: tokens of all texts.
      batch_tokens: token slots of a batch; more where a text needs them, fewer where all texts need fewer.
    """
    longest = int(lengths.max())
    slots = _round_up(max(min(batch_tokens, int(lengths.sum())), longest), QUERY_BLOCK)
    return Shape(slots, _window(longest), min(max(slots // SLOTS_PER_ROW, MIN_ROWS), _round_up(len(lengths), MIN_ROWS)))


def one_text(length: int) -> Shape:
    """The smallest batch that holds one text."""
    ((one,),) = make_plan(np.asarray([length]), 1, length).blocks
    return one.shape


def feeds(
    texts: TokenizedSet,
    bins: Sequence[Bin],
    devices: int,
    counted: Callable[[int], Bool[np.ndarray, "_"]],
    variants: Variants | None = None,
) -> Iterator[Feed]:
    """What the devices are fed, step by step: bins of equal shape, at most one for each.

    Args:
      texts: what the bins hold.
      bins: in any order; the shapes come in the order in which they first occur.
      devices: batches that a step takes.
      counted: of a text, which of its tokens count: `texts.counting`, or `texts.predicting` for a loss.
      variants: of a text, which variant of the edits each of its tokens is under; None: the first.
    """

    def batch(one: Bin) -> Batch:
        under = None if variants is None else [variants(text) for text in one.texts]
        return fill(one.shape, [texts.ids[text] for text in one.texts], [counted(text) for text in one.texts], under)

    for shape in dict.fromkeys(one.shape for one in bins):
        same = [one for one in bins if one.shape == shape]
        for start in range(0, len(same), devices):
            step = same[start : start + devices]
            padding = [Bin(shape, ())] * (devices - len(step))
            yield Feed(tuple(step), jax.tree.map(lambda *leaves: np.stack(leaves), *map(batch, [*step, *padding])))


def fill(
    shape: Shape,
    ids: Sequence[Int32[np.ndarray, "_"]],
    counted: Sequence[Bool[np.ndarray, "_"]],
    variants: Sequence[int | Int32[np.ndarray, "_"]] | None = None,
) -> Batch:
    """Lays texts into the slots of a batch.

    Args:
      shape: the batch's sizes.
      ids: token ids of the texts, in order; none for a batch of padding.
      counted: which of their tokens count.
      variants: which variant of the edits each text is under, or each of its tokens; None: the first.

    Returns:
      A batch of NumPy arrays.
    """
    token = np.zeros(shape.slots, np.int32)
    position = np.zeros(shape.slots, np.int32)
    row = np.full(shape.slots, shape.rows, np.int32)
    counts = np.zeros(shape.slots, bool)
    variant = np.zeros(shape.slots, np.int32)
    start = 0
    for index, (text, counting, under) in enumerate(zip(ids, counted, variants or [0] * len(ids), strict=True)):
        stop = start + len(text)
        token[start:stop], position[start:stop] = text, np.arange(len(text))
        row[start:stop], counts[start:stop], variant[start:stop] = index, counting, under
        start = stop
    leaves: list[Any] = [token, position, row, counts, variant]
    return Batch(*leaves)


def _pack(lengths: Int[np.ndarray, "I"], texts: range, slots: int, max_rows: int) -> list[list[int]]:
    """The longest text goes into the emptiest bin, of as many as the tokens of its window fill.

    Shorter texts follow, of whatever window; those for which no bin has room are dealt out in the same way again.
    """
    left = sorted(texts, key=lambda text: -int(lengths[text]))
    window = {text: _window(int(lengths[text])) for text in left}
    packed: list[list[int]] = []
    while left:
        tokens = sum(int(lengths[text]) for text in left if window[text] == window[left[0]])
        bins: list[list[int]] = [[] for _ in range(max(-(-tokens // slots), 1))]
        used = [(0, number) for number in range(len(bins))]  # a heap: the emptiest bin comes first
        too_many = []
        for text in left:
            if not used or used[0][0] + lengths[text] > slots:
                too_many.append(text)
                continue
            filled, number = heapq.heappop(used)
            bins[number].append(text)
            if len(bins[number]) < max_rows:
                heapq.heappush(used, (filled + int(lengths[text]), number))
        packed += bins
        left = too_many
    return packed


def _window(length: int) -> int:
    return window_for(length, default_kernels().attention)


def _power_of_two(count: int) -> int:
    return 1 << max(count - 1, 0).bit_length()


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
