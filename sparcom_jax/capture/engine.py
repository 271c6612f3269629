"""The capture: instructions through the model, statistics into the store, resumable block by block."""

import collections
import io
import json
from collections.abc import Callable
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tensorstore as ts
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Int32

from sparcom_jax.batches.packing import Bin, Plan, Shape, fill, make_plan, stack, steps
from sparcom_jax.batches.templates import Template, make_template
from sparcom_jax.batches.tokens import (
    TokenizedSet,
    token_limit,
    tokenize_prompts,
    tokenize_responses,
    too_long_for,
)
from sparcom_jax.capture.cuts import SetCut, require_whole_bytes
from sparcom_jax.capture.generate import GenerateSettings, generate, require_steady_angles
from sparcom_jax.capture.manifest import describe, open_or_create, record_tokens
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.placement import Placement, Step, make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Batch, Params, bind
from sparcom_jax.models.faults import first_fault, require_finite
from sparcom_jax.models.taps import LayerTaps
from sparcom_jax.progress import progress, say
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.lock import only_writer
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.schema import MAX_COUNT, capture_arrays, vector
from sparcom_jax.units.groups import Group, model_groups

BLOCK_BYTES = 1 << 30
MAX_ROWS_PER_BLOCK = 512
BLOCKS_IN_FLIGHT = 2


def capture(
    model: ModelDir,
    instructions: InstructionSet,
    output: str | Path,
    settings: CaptureSettings = CaptureSettings(),
    selection: Selection = Selection(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> Run:
    """Captures the statistics of a model over instructions.

    Run it again with the same arguments after a kill and it goes on where it stopped; the arrays come out the same bit
    by bit. Each process of a distributed job captures its own blocks of instructions.

    Args:
      model: a converted model.
      instructions: the rows.
      output: path or URL of the run.
      settings: how to capture.
      selection: how the neurons are cut where `settings.keep` is `sets`; of no effect where it is `counts`.
      execution: where and how the model runs.

    Returns:
      The run, complete if this is the only process.

    Raises:
      InputError: the input is at fault, or the output holds a run of something else.
    """
    settings.check()
    execution.check()
    selection.check()
    if settings.scope == "generated":
        model.require_head("scope 'generated'")
    cut_by = selection if settings.keep == "sets" else None
    config = model.config
    placement = make_placement(execution.placement, config)
    dtype = compute_dtype(execution.dtype, model.dtype)
    tokenizer = model.tokenizer()
    template = make_template(settings.template, tokenizer)
    texts = _tokenize(config, instructions, tokenizer, template, settings)
    stop = model.stop_token_ids() if settings.scope == "generated" else ()
    groups = model_groups(config)
    names = [row["id"] for row in instructions.rows]
    if cut_by:
        require_whole_bytes(groups, placement)
    rows_per_block = settings.rows_per_block or _rows_per_block(groups, settings)
    with only_writer(output, jax.process_index(), jax.process_count()):
        store = Store(output)
        resumed = open_or_create(store, describe(model, instructions, texts, template, groups, settings, execution,
                                                 cut_by, stop, placement, dtype, rows_per_block))  # fmt: skip

        @cache
        def params() -> Params:
            return model.restore(placement.param_shardings(config), dtype)

        if settings.scope == "generated":
            how = GenerateSettings(settings.new_tokens, stop, execution.batch_tokens, rows_per_block)
            texts = generate(config, params, placement, texts, names, store, how)
        generated = texts if settings.scope == "generated" else None
        texts = texts.last(settings.count_window)
        plan = make_plan(texts.lengths, rows_per_block, execution.batch_tokens)
        if jax.process_index() == 0:
            record_tokens(store, texts, plan)
            _write_rows(store, instructions, texts, generated, tokenizer)
        arrays = _create_arrays(store, groups, len(texts.ids), rows_per_block, settings)
        done = np.asarray(finished(arrays["instruction/done"].read(), store.location))
        mine = [
            index
            for index in range(len(plan.blocks))
            if index % jax.process_count() == jax.process_index()
            and not done[index * rows_per_block : (index + 1) * rows_per_block].all()
        ]
        if resumed:
            say(f"{output}: {int(done.sum())} of {done.size} instructions are done already")
        _announce(plan, rows_per_block, texts)
        if mine:
            engine = _Engine(config, params(), placement, settings, cut_by, groups, texts, names)
            with progress("capture", len(texts.ids), "instructions", int(done.sum())) as bar:
                _write_blocks(engine, plan, mine, rows_per_block, arrays, store.location, bar)
        done = np.asarray(finished(arrays["instruction/done"].read(), store.location))
        if left := int((done == 0).sum()):
            say(f"{output}: the share of this process is done; {left} instructions are left to the others")
    return open_run(output)


def _announce(plan: Plan, rows_per_block: int, texts: TokenizedSet) -> None:
    shapes = len({one.shape for block in plan.blocks for one in block})
    say(f"{len(plan.blocks)} blocks of {rows_per_block} instructions, {plan.filled:.1%} of the token slots filled, "
        f"{shapes} shapes to compile, {len(texts.truncated)} truncated")  # fmt: skip


class _Engine:
    """Runs batches of one model and collects their statistics on the host."""

    def __init__(
        self,
        config: DecoderConfig,
        params: Params,
        placement: Placement,
        settings: CaptureSettings,
        selection: Selection | None,
        groups: list[Group],
        texts: TokenizedSet,
        names: list[str],
    ) -> None:
        self._config = config
        self._params = params
        self._placement = placement
        self._settings = settings
        self._groups = tuple(groups)
        self._cut = SetCut(selection, self._groups, placement.axis) if selection else None
        self._texts = texts
        self._names = names

    def block(self, bins: tuple[Bin, ...], first_row: int, rows: int) -> dict[str, np.ndarray]:
        """Captures one block of instructions: array name -> `[rows, ...]`.

        Raises:
          InputError: activations of an instruction are not finite.
        """
        results: dict[str, np.ndarray] = {}
        taken = list(steps(bins, self._placement.data))
        for step_bins, found in zip(taken, self._placement.run_ahead(map(self._call, taken)), strict=True):
            statistics, fault = found
            self._require_finite(step_bins, np.asarray(fault).min(axis=1))
            self._collect(step_bins, statistics, results, first_row, rows)
        return results

    def _call(self, bins: list[Bin]) -> Callable[[], Any]:
        step = capture_step(self._config, bins[0].shape, self._settings.convention, self._settings.value_statistics,
                            self._groups, self._cut, self._placement)  # fmt: skip
        return partial(step, self._params, stack(bins, self._placement.data, self._lay), None)

    def _lay(self, one: Bin) -> Batch:
        ids = [self._texts.ids[text] for text in one.texts]
        return fill(one.shape, ids, [self._texts.counting(text) for text in one.texts])

    def _require_finite(self, bins: list[Bin], fault: np.ndarray) -> None:
        for device, one in enumerate(bins):
            require_finite(fault[device], one.texts, self._names, self._config.num_layers, self._params,
                           "--config.execution.dtype")  # fmt: skip

    @staticmethod
    def _collect(bins: list[Bin], statistics: Any, results: dict[str, np.ndarray], first_row: int, rows: int) -> None:
        for group, of_group in statistics.items():
            for statistic, stacked in of_group.items():
                values = np.asarray(stacked)  # [data, L, R, ...], or [data, R] of what all layers have in common
                by_text = values if values.ndim == 2 else np.moveaxis(values, 2, 1)
                name = f"{group}/{statistic}"
                if name not in results:
                    results[name] = np.zeros((rows, *by_text.shape[2:]), values.dtype)
                for device, one in enumerate(bins):
                    at = np.asarray(one.texts) - first_row
                    results[name][at] = by_text[device, : len(at)]


@lru_cache(maxsize=64)
def capture_step(
    config: DecoderConfig,
    shape: Shape,
    convention: str,
    values: bool,
    groups: tuple[Group, ...],
    cut: SetCut | None,
    placement: Placement,
) -> Step:
    """The compiled step of a batch shape.

    Returns:
      A function of (params, batches, None), which gives statistics `[data, L, R, ...]` by group, and the first fault
      (`models/faults.py`) of each text as each device that shares the model sees it, `[data, model, R]`.
    """
    experts = config.experts.count // placement.model if config.experts else 0
    statistics = Statistics(shape.rows, experts, convention, values, placement.kernels.counting)

    def step(params: Params, batch: Batch, nothing: None) -> tuple[dict[str, Any], Int32[Array, "1 R"]]:
        del nothing

        def reduce(taps: LayerTaps) -> dict[str, Any]:
            return {**statistics.reduce(taps, batch), "finite": statistics.finite(taps, batch)}

        # Full precision where the dtype is float32; TPUs and GPUs would round the inputs of matmuls otherwise.
        with jax.default_matmul_precision("highest"):
            output = bind(config, params)(
                batch,
                shape.rows,
                window=shape.window,
                axis=placement.axis,
                reduce=reduce,
                kernels=placement.kernels,
            )
        kept = dict(output.taps)
        # What is not finite in a layer shows in the stream of the next; of the last one, the stream is not computed.
        last = kept.pop("finite")[-1:]
        fault = first_fault(jnp.concatenate([output.finite, last]), batch.row, shape.rows)
        return cut.reduce(kept, batch, shape.rows) if cut else kept, fault[None]

    specs = statistics.specs([group.name for group in groups])
    return placement.compile(step, config, None, (cut.specs(specs) if cut else specs, P("model")))


def _write_blocks(
    engine: _Engine,
    plan: Plan,
    mine: list[int],
    rows_per_block: int,
    arrays: dict[str, ts.TensorStore],
    location: str,
    bar: Any,
) -> None:
    """Captures blocks, writing each while the next is computed; `done` follows when all of a block is durable."""
    writing: collections.deque[tuple[slice, list[Any]]] = collections.deque()

    def finish() -> None:
        rows, futures = writing.popleft()
        for future in futures:
            finished(future, location)
        finished(arrays["instruction/done"][rows].write(np.uint8(1)), location)
        bar.advance(rows.stop - rows.start)

    total = arrays["instruction/done"].shape[0]
    for index in mine:
        start = index * rows_per_block
        rows = slice(start, min(start + rows_per_block, total))
        results = engine.block(plan.blocks[index], start, rows.stop - start)
        writing.append((rows, [arrays[name][rows].write(values) for name, values in results.items()]))
        if len(writing) >= BLOCKS_IN_FLIGHT:
            finish()
    while writing:
        finish()


def _tokenize(
    config: DecoderConfig, instructions: InstructionSet, tokenizer: Any, template: Template, settings: CaptureSettings
) -> TokenizedSet:
    """What is fed, but for scope `generated`: there, what is continued."""
    max_tokens, limit = token_limit(settings.max_tokens, config.max_positions, MAX_COUNT)
    if settings.max_tokens > max_tokens:
        say(f"capture.max_tokens {settings.max_tokens} is more than {max_tokens}, {limit}, which holds")
    texts = tokenize_prompts(instructions, tokenizer, template, scope=settings.scope, vocab_size=config.vocab_size,
                             max_tokens=max_tokens, truncate=settings.truncate, limit=limit)  # fmt: skip
    if settings.scope == "response":
        texts = tokenize_responses(instructions, texts, tokenizer, vocab_size=config.vocab_size, max_tokens=max_tokens,
                                   separator=template.separator, end=False, limit=limit)  # fmt: skip
    if settings.scope == "generated":
        names = [row["id"] for row in instructions.rows]
        if taken := [row["id"] for row in instructions.rows if "generated" in row]:
            raise InputError(f"{instructions.source}: field 'generated' is the capture's own: {first_of(taken)}")
        sizes = zip(names, texts.lengths + settings.new_tokens, strict=True)
        if too_long := [f"{name} ({size})" for name, size in sizes if size > max_tokens]:
            what = f"{instructions.source}: prompt and {settings.new_tokens} new tokens are longer than"
            raise InputError(what + too_long_for(max_tokens, limit, too_long))
        require_steady_angles(config, texts.lengths, settings.new_tokens, names, instructions.source)
    return texts


def _rows_per_block(groups: list[Group], settings: CaptureSettings) -> int:
    bits = 1 if settings.keep == "sets" else 16 + 64 * settings.value_statistics
    row_bytes = sum(group.unit_count for group in groups) * bits // 8
    rows = MAX_ROWS_PER_BLOCK
    while rows > 1 and rows * row_bytes > BLOCK_BYTES:
        rows //= 2
    return rows


def _create_arrays(
    store: Store, groups: list[Group], rows: int, rows_per_block: int, settings: CaptureSettings
) -> dict[str, ts.TensorStore]:
    """The arrays that blocks are written to."""
    specs = capture_arrays(groups, rows, rows_per_block, settings.value_statistics, settings.keep == "sets")
    specs.append(vector("instruction/done", "uint8", "instruction", rows, rows_per_block))
    if jax.process_index() == 0:
        for group in groups:
            store.write_group(group.name)
            layers = vector(f"{group.name}/layer", "int32", "layer", len(group.layers))
            finished(store.create_array(layers).write(np.asarray(group.layers, layers.dtype)), store.location)
    return {spec.name: store.create_array(spec) for spec in specs}


def _write_rows(
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
