"""Greedy continuation: what the model answers by itself, kept in the run before its activations are captured.

Axis legend: I instructions, S token slots of a batch, R texts of a batch, N new tokens, C positions of a cache.
"""

import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Int, Int32, UInt32

from sparcom_jax.batches.packing import alike, feeds
from sparcom_jax.batches.tokens import TokenizedSet, extended
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import EDIT_SPECS, Placement, Step
from sparcom_jax.engine.processes import own_blocks
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.faults import ALL_FINITE, all_finite, first_fault
from sparcom_jax.models.mixers import Cache, empty_cache
from sparcom_jax.progress import progress, say
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.schema import ArraySpec, vector

WAIT_SECONDS = 5.0
MOST_WAITS = 360


class Continuations(NamedTuple):
    """Greedy continuations of texts.

    Attributes:
      token: their ids, then zeros.
      length: how many there are: N, or fewer where a token that stops came, which is the last of them.
    """

    token: Int32[np.ndarray, "I N"]
    length: UInt32[np.ndarray, "I"]


class Edited(NamedTuple):
    """A model that does not stay as it is.

    Attributes:
      edits: interventions with one variant, at all tokens of prompt and continuation.
      when: what they do to the model, for an error.
    """

    edits: Edits
    when: str


class GenerateSettings(NamedTuple):
    """How texts are continued.

    Attributes:
      new_tokens: N, the most tokens that are added to a text.
      stop: token ids after which a text ends.
      batch_tokens: token slots of a batch of prompts, per device; its cache has N more positions for every text.
      rows_per_block: texts that are written together.
    """

    new_tokens: int
    stop: tuple[int, ...]
    batch_tokens: int
    rows_per_block: int


class _State(NamedTuple):
    """A batch of texts that are being continued; `step` tokens of each are chosen, the last of them is not read yet.

    `fault` is the first one of each text, which ends there.
    """

    step: Int[Array, ""]
    token: Int[Array, "R N"]
    length: Int[Array, "R"]
    ended: Bool[Array, "R"]
    fault: Int[Array, "R"]
    cache: Cache | None


def generate(
    model: Callable[[], PlacedModel],
    prompts: TokenizedSet,
    names: Sequence[str],
    store: Store,
    settings: GenerateSettings,
) -> TokenizedSet:
    """Continues prompts, each token the most probable one, and keeps the continuations in the run.

    The arrays `generated/token` and `generated/length` are written block by block; what they hold is not made again. In
    a distributed job each process continues its own blocks and then waits until the others have theirs.

    Args:
      model: gives the model on its devices; not called where nothing is left to do.
      prompts: what is continued.
      names: what the prompts are called.
      store: the run.
      settings: how far, and in which batches.

    Returns:
      The prompts with their continuations, whose tokens alone count.

    Raises:
      InputError: logits, or what leads to them, are not finite; or the other processes have died.
    """
    rows, block = len(prompts.ids), settings.rows_per_block
    store.write_group("generated")
    shape = (block, settings.new_tokens)
    tokens = store.create_array(
        ArraySpec("generated/token", "int32", (rows, shape[1]), ("instruction", "new_token"), shape, shape)
    )
    lengths = store.create_array(vector("generated/length", "uint32", "instruction", rows, block))
    done = np.asarray(finished(lengths.read(), store.location)) > 0
    if own := own_blocks(done, block):
        with progress("generate", rows, "instructions", int(done.sum())) as bar:
            for part in own:
                made = continue_block(model(), prompts, names, part, settings, bar.advance)
                finished(tokens[part].write(made.token), store.location)
                finished(lengths[part].write(made.length), store.location)
    length = _wait_for_all(lengths, store.location)
    token = np.asarray(finished(tokens.read(), store.location))
    return extended(prompts, [row[:count] for row, count in zip(token, length, strict=True)])


def _wait_for_all(lengths: ts.TensorStore, location: str) -> UInt32[np.ndarray, "I"]:
    """Lengths of all continuations, once the other processes have made theirs.

    Raises:
      InputError: for half an hour none was added: the others have died.
    """
    before, waits = -1, 0
    while not (length := np.asarray(finished(lengths.read(), location))).all():
        left = int((length == 0).sum())
        waits = waits + 1 if left == before else 0
        if waits == MOST_WAITS:
            raise InputError(f"{location}: {left} instructions were not continued by the other processes; run the same "
                             f"command again")  # fmt: skip
        if left != before:
            say(f"generate: waiting for other processes, to which {left} instructions are left, for up to "
                f"{WAIT_SECONDS * MOST_WAITS:.0f} s in which none comes")  # fmt: skip
        before = left
        time.sleep(WAIT_SECONDS)
    return length


def require_steady_angles(
    config: DecoderConfig, lengths: Int32[np.ndarray, "I"], new_tokens: int, names: list[str], source: str
) -> None:
    """Refuses texts that grow past the point where the model turns all their positions by other angles.

    What the cache holds by then has been turned by the old ones, and the text would be read otherwise in the capture.

    Raises:
      InputError: it names such texts.
    """
    for rope in config.ropes:
        if rope.kind not in ("dynamic", "longrope"):
            continue
        grown = lengths + new_tokens > rope.original_positions
        if rope.kind == "longrope":
            grown &= lengths <= rope.original_positions
        if grown.any():
            listed = first_of([names[row] for row in np.flatnonzero(grown)])
            raise InputError(f"{source}: {new_tokens} new tokens lead past {rope.original_positions} tokens, where "
                             f"rope {rope.kind!r} changes the angle of every position: {listed}")  # fmt: skip


def continue_block(
    model: PlacedModel,
    prompts: TokenizedSet,
    names: Sequence[str],
    part: slice,
    settings: GenerateSettings,
    advance: Callable[[int], object],
    edited: Edited | None = None,
) -> Continuations:
    """Continues the texts of one block.

    Args:
      model: the model on its devices.
      prompts: all prompts.
      names: what they are called.
      part: the block.
      settings: how far, and in which batches.
      advance: told of every batch, how many texts it has.
      edited: what becomes of the model; None: it stays as it is.

    Raises:
      InputError: logits, or what leads to them, are not finite.
    """
    count, placement = part.stop - part.start, model.placement
    made = Continuations(np.zeros((count, settings.new_tokens), np.int32), np.zeros(count, np.uint32))
    step = partial(generate_step, model.config, new_tokens=settings.new_tokens, stop=settings.stop, placement=placement,
                   edited=edited is not None)  # fmt: skip
    extra = placement.put(edited.edits, EDIT_SPECS) if edited else None
    bins = alike(prompts.lengths, part.start, count, settings.batch_tokens)
    fed = feeds(prompts, bins, placement.data, prompts.counting)
    for found in finite_sweep(model, fed, step, names, extra, edited.when if edited else ""):
        at = np.asarray(found.texts) - part.start
        token, length = found.values
        made.token[at], made.length[at] = token[: len(at)], length[: len(at)]
        advance(len(at))
    return made


@lru_cache(maxsize=64)
def generate_step(
    config: DecoderConfig,
    shape: Shape,
    new_tokens: int,
    stop: tuple[int, ...],
    placement: Placement,
    edited: bool = False,
) -> Step:
    """The compiled step of a batch shape.

    The prompts are read packed, as in a capture, which fills the cache; then each turn of a loop reads one token of
    each text. Of equal logits the lowest id wins.

    Returns:
      A function of (params, batches, edits; None where the model is not `edited`), which gives tokens `[data, R, N]`
      and lengths `[data, R]` as in `Continuations`, together, and the first fault of each text (`models/faults.py`),
      `[data, R]`.
    """
    positions = shape.slots // shape.rows + new_tokens
    rows = np.arange(shape.rows, dtype=np.int32)
    turns = Shape(shape.rows, None, shape.rows)

    def step(
        params: Params, batch: Batch, edits: Edits | None
    ) -> tuple[tuple[Int[Array, "R N"], Int[Array, "R"]], Int[Array, "R"]]:
        decoder = bind(config, params)
        dtype = decoder.embed.embedding[...].dtype
        read = jax.ops.segment_max(batch.position + 1, batch.row, shape.rows + 1, indices_are_sorted=True)[:-1]
        read = jnp.maximum(read, 0)  # the maximum of nothing is not 0
        real = read > 0

        def ends(token: Int[Array, "R"]) -> Bool[Array, "R"]:
            return jnp.isin(token, jnp.asarray(stop, token.dtype))

        def follow(
            batch: Batch, read_shape: Shape, cache: Cache | None, last: Int[Array, "R"]
        ) -> tuple[Int[Array, "R"], Int[Array, "R"], Cache | None]:
            """Reads a batch, the last token of each text in the slot given: the next tokens, and faults until then."""
            output = decoder(batch, read_shape, cache=cache, edits=edits or Edits(), compute=placement.compute)
            hidden = output.hidden[last]
            logits = decoder.logits(hidden)
            ends = jnp.ones((2, len(batch.row)), bool)
            ends = ends.at[:, last].set(jnp.stack([all_finite(hidden), all_finite(logits)]))
            fault = first_fault(jnp.concatenate([output.finite, ends]), batch.row, shape.rows)
            return jnp.argmax(logits, axis=-1).astype(jnp.int32), fault, output.cache

        def more(state: _State) -> Bool[Array, ""]:
            return (state.step < new_tokens) & ~jnp.all(state.ended)

        def turn(state: _State) -> _State:
            position = read + state.step - 1
            last = Batch(state.token[:, state.step - 1], position, jnp.where(real, rows, shape.rows), real,
                         jnp.zeros_like(position))  # fmt: skip
            token, fault, cache = follow(last, turns, state.cache, jnp.asarray(rows))
            token = jnp.where(state.ended, 0, token)
            fault = jnp.where(state.ended, state.fault, fault)
            length = state.length + (~state.ended).astype(jnp.int32)
            ended = state.ended | ends(token) | (fault != ALL_FINITE)
            return _State(state.step + 1, state.token.at[:, state.step].set(token), length, ended, fault, cache)

        with jax.default_matmul_precision("highest"):
            empty = empty_cache(config, shape.rows, positions, dtype, placement.model)
            token, fault, cache = follow(batch, shape, empty, jnp.cumsum(read) - 1)
            token = jnp.where(real, token, 0)
            tokens = jnp.zeros((shape.rows, new_tokens), jnp.int32).at[:, 0].set(token)
            ended = ~real | ends(token) | (fault != ALL_FINITE)
            begun = _State(jnp.int32(1), tokens, real.astype(jnp.int32), ended, fault, cache)
            made = jax.lax.while_loop(more, turn, begun)
        return (made.token, made.length), made.fault

    return placement.compile(step, config, EDIT_SPECS if edited else None, ((P(), P()), P()))
