"""What a model is tuned on: which instructions, their tokens, and the batches of every epoch.

Axis legend: I instructions that are read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from sparcom_jax.batches.packing import Bin, shape_for
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, TokenizedSet, tokenize_prompts, tokenize_responses
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.batch import Shape
from sparcom_jax.select.halves import deal
from sparcom_jax.store.run import first_rows
from sparcom_jax.tune.settings import TuneSettings

OPEN_BATCHES = 16
"""Of an epoch, to which a row may still be added."""


@dataclass(frozen=True, eq=False)
class TuneTexts:
    """The instructions that are read, each with its response.

    Attributes:
      texts: their tokens, of which those of the response count.
      names: their ids.
      category: of each.
      categories: names of the categories.
      learnt: which of them are learnt from.
      parts: by name, those that are evaluated: `validation`, by which training may stop early, and `held_out`.
    """

    texts: TokenizedSet
    names: Sequence[str]
    category: UInt8[np.ndarray, "I"]
    categories: Sequence[str]
    learnt: Int64[np.ndarray, "_"]
    parts: dict[str, Int64[np.ndarray, "_"]]


def tune_texts(model: ModelDir, instructions: InstructionSet, settings: TuneSettings) -> TuneTexts:
    """Reads the instructions.

    Args:
      model: whose tokenizer reads them.
      instructions: all of them.
      settings: which are learnt from and which are evaluated.

    Raises:
      InputError: there is no such category, or nothing to learn from; a response is missing, a text is longer than what
        the model reads, or the tokenizer does not fit the model.
    """
    tokenizer, config = model.tokenizer(), model.config
    reader = Reader(
        tokenizer, make_template(settings.template, tokenizer), config.vocab_size, Limit(config.max_positions)
    )
    category = np.asarray(instructions.category_index(), np.uint8)
    categories = instructions.categories
    if settings.category and settings.category not in categories:
        raise InputError(f"{instructions.source}: no category {settings.category!r}; there are {', '.join(categories)}")
    prompts = tokenize_prompts(instructions, reader)
    half = deal(category, prompts.lengths, categories, settings.half, settings.half_seed, instructions.source)
    wanted = half & (category == categories.index(settings.category)) if settings.category else half
    validation = _set_aside(wanted, category, settings)
    held_out = np.zeros(len(half), bool)
    held_out[first_rows(category, settings.per_category, ~half)] = True
    read = np.flatnonzero(wanted | held_out)
    chosen = InstructionSet(instructions.source, [instructions.rows[row] for row in read], categories)
    of_read = TokenizedSet(
        [prompts.ids[row] for row in read], prompts.first_counted[read], prompts.end_counted[read], {}
    )
    texts = tokenize_responses(chosen, of_read, reader, end=True)
    learnt = np.flatnonzero((wanted & ~validation)[read])
    if not len(learnt):
        raise InputError(f"{instructions.source}: no instruction of {settings.category or 'any category'} is left to "
                         f"learn from")  # fmt: skip
    parts = {"validation": np.flatnonzero(validation[read]), "held_out": np.flatnonzero(held_out[read])}
    names = [row["id"] for row in chosen.rows]
    kept = {name: rows for name, rows in parts.items() if len(rows)}
    return TuneTexts(texts, names, category[read], categories, learnt, kept)


def _set_aside(wanted: Bool[np.ndarray, "I"], category: UInt8[np.ndarray, "I"], settings: TuneSettings
               ) -> Bool[np.ndarray, "I"]:  # fmt: skip
    """Of the rows to learn from, those that are set aside: a share of each category, drawn."""
    aside = np.zeros(len(wanted), bool)
    random = np.random.default_rng([settings.half_seed, 1])
    for number in np.unique(category[wanted]):
        rows = np.flatnonzero(wanted & (category == number))
        count = min(-int(-settings.validation * len(rows) // 1), len(rows) - 1)
        aside[random.choice(rows, count, replace=False)] = True
    return aside


@dataclass(frozen=True)
class Schedule:
    """The batches of all steps.

    Attributes:
      shape: of a batch.
      steps: the bins of every step, for all devices.
      epoch_ends: after how many steps each epoch is over.
      filled: share of the slots that hold a token.
    """

    shape: Shape
    steps: list[list[Bin]]
    epoch_ends: list[int]
    filled: float


def schedule(texts: TuneTexts, settings: TuneSettings, batch_tokens: int, devices: int) -> Schedule:
    """Packs the rows that are learnt from, in an order of their own in every epoch; it follows from the seed.

    Args:
      texts: the rows.
      settings: how often they are read, and in how many batches a step.
      batch_tokens: token slots of a batch; more where a row needs them.
      devices: batches that are computed at a time.
    """
    lengths = texts.texts.lengths
    shape = shape_for(lengths[texts.learnt], batch_tokens)
    steps: list[list[Bin]] = []
    ends = []
    bins = tokens = 0
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, 2, epoch]).permutation(texts.learnt)
        packed = _pack(order.tolist(), lengths, shape)
        bins += len(packed)
        tokens += int(lengths[texts.learnt].sum())
        size = devices * settings.accumulate
        steps += [packed[start : start + size] for start in range(0, len(packed), size)]
        ends.append(len(steps))
    return Schedule(shape, steps, ends, tokens / (bins * shape.slots))


def evaluation(texts: TuneTexts, batch_tokens: int) -> list[Bin]:
    """The batches of all rows that are evaluated."""
    lengths = texts.texts.lengths
    rows = np.concatenate([*texts.parts.values(), np.zeros(0, np.int64)]).astype(np.int64)
    if not len(rows):
        return []
    order = rows[np.argsort(-lengths[rows], kind="stable")]
    return _pack(order.tolist(), lengths, shape_for(lengths[rows], batch_tokens))


def _pack(order: Sequence[int], lengths: np.ndarray, shape: Shape) -> list[Bin]:
    """Each row goes into the first of the open batches that has room."""
    done: list[list[int]] = []
    opened: list[tuple[list[int], int]] = []
    for row in order:
        size = int(lengths[row])
        for number, (members, room) in enumerate(opened):
            if size <= room and len(members) < shape.rows:
                members.append(row)
                opened[number] = members, room - size
                break
        else:
            opened.append(([row], shape.slots - size))
            if len(opened) > OPEN_BATCHES:
                done.append(opened.pop(0)[0])
    return [Bin(shape, tuple(members)) for members in [*done, *(members for members, _ in opened)]]
