"""The capture: instructions through the model, statistics into the store, resumable block by block."""

from dataclasses import asdict
from functools import cache
from pathlib import Path

import jax

from sparcom_jax.batches.packing import Plan, make_plan
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.blocks import Blocks
from sparcom_jax.capture.cuts import require_whole_bytes
from sparcom_jax.capture.generate import GenerateSettings, generate
from sparcom_jax.capture.manifest import (
    describe_devices,
    describe_instructions,
    describe_model,
    describe_settings,
    describe_tokenizer,
    open_or_create,
    package_versions,
    record_tokens,
)
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.capture.step import Kept
from sparcom_jax.capture.texts import texts_to_feed
from sparcom_jax.capture.writer import BlockWriter, rows_of_a_block, write_rows
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.processes import own_blocks
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import InstructionSet, as_instructions
from sparcom_jax.progress import progress, say
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.lock import only_writer
from sparcom_jax.store.manifest import Manifest
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.units.groups import model_groups


def capture(
    model: ModelDir | str | Path,
    instructions: InstructionSet | str | Path,
    output: str | Path,
    settings: CaptureSettings = CaptureSettings(),
    selection: Selection = Selection(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> Run:
    """Captures the statistics of a model over instructions.

    Run it again with the same arguments after a kill and it goes on where it stopped; the arrays come out the same bit
    by bit. Each process of a distributed job captures its own blocks of instructions.

    Args:
      model: a converted model, or its directory.
      instructions: the rows, their file, or `hexainst`.
      output: path or URL of the run.
      settings: how to capture.
      selection: how the neurons are cut where `settings.keep` is `sets`; of no effect where it is `counts`.
      execution: where and how the model runs.

    Returns:
      The run, complete if this is the only process.

    Raises:
      InputError: the input is at fault, or the output holds a run of something else.
    """
    model, instructions = as_model(model), as_instructions(instructions)
    settings.check()
    execution.check()
    selection.check()
    if settings.keep == "sets":
        selection.require_alone()
    if settings.scope == "generated":
        model.require_head("scope 'generated'")
    kept = Kept(settings.convention, settings.value_statistics, selection if settings.keep == "sets" else None)
    config = model.config
    placement = make_placement(execution.placement, config)
    dtype = compute_dtype(execution.dtype, model.dtype)
    tokenizer = model.tokenizer()
    template = make_template(settings.template, tokenizer)
    texts = texts_to_feed(config, instructions, tokenizer, template, settings)
    stop = model.stop_token_ids() if settings.scope == "generated" else ()
    groups = model_groups(config)
    names = [row["id"] for row in instructions.rows]
    if kept.selection:
        require_whole_bytes(groups, placement)
    rows_per_block = settings.rows_per_block or rows_of_a_block(groups, kept)
    manifest = Manifest(
        model=describe_model(model),
        tokenizer=describe_tokenizer(model),
        instructions=describe_instructions(instructions, texts),
        categories=instructions.categories,
        groups={group.name: group for group in groups},
        rows_per_write=rows_per_block,
        capture=describe_settings(settings, template, stop),
        execution=asdict(execution),
        selection=kept.selection.of_neurons() if kept.selection else None,
        dtype=dtype,
        devices=describe_devices(placement),
        versions=package_versions(),
    )
    with only_writer(output, jax.process_index(), jax.process_count()):
        store = Store(output)
        resumed = open_or_create(store, manifest)
        placed = cache(lambda: place_model(model, placement, dtype))  # not before something is left to do
        generated = None
        if settings.scope == "generated":
            how = GenerateSettings(settings.new_tokens, stop, execution.batch_tokens, rows_per_block)
            texts = generated = generate(placed, texts, names, store, how)
        texts = texts.last(settings.count_window)
        plan = make_plan(texts.lengths, rows_per_block, execution.batch_tokens)
        if jax.process_index() == 0:
            record_tokens(store, texts, plan)
            write_rows(store, instructions, texts, generated, tokenizer)
        writer = BlockWriter(store, groups, kept, len(texts.ids), rows_per_block)
        if resumed:
            say(f"{output}: {int(writer.done.sum())} of {writer.done.size} instructions are done already")
        _announce(plan, rows_per_block, texts)
        if own := own_blocks(writer.done, rows_per_block):
            blocks = Blocks(placed(), texts, names, kept)
            with progress("capture", len(texts.ids), "instructions", int(writer.done.sum())) as bar:
                for rows in own:
                    bins = plan.blocks[rows.start // rows_per_block]
                    writer.write(rows, blocks.statistics(bins, rows, bar.advance))
                writer.finish()
        if left := int((~writer.read_done()).sum()):
            say(f"{output}: the share of this process is done; {left} instructions are left to the others")
    return open_run(output)


def _announce(plan: Plan, rows_per_block: int, texts: TokenizedSet) -> None:
    shapes = len({one.shape for block in plan.blocks for one in block})
    say(f"{len(plan.blocks)} blocks of {rows_per_block} instructions, {plan.filled:.1%} of the token slots filled, "
        f"{shapes} shapes to compile, {len(texts.truncated)} truncated")  # fmt: skip
