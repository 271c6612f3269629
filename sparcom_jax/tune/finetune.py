"""Fine-tuning of a part of a model, from its beginning to what is written in the end."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax

from sparcom_jax.convert.model_dir import ModelDir, as_model, stored_bytes
from sparcom_jax.convert.output import require_absent, require_space
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet, as_instructions
from sparcom_jax.progress import say
from sparcom_jax.results.files import start_results
from sparcom_jax.results.reader import read_result
from sparcom_jax.results.summary import SUMMARY
from sparcom_jax.results.tuning import TUNING_TABLES
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.tune.checkpoints import BEGUN, Checkpoints, require_begun
from sparcom_jax.tune.choice import choose
from sparcom_jax.tune.job import Job
from sparcom_jax.tune.settings import TuneSettings, parse_train
from sparcom_jax.tune.step import Steps
from sparcom_jax.tune.texts import schedule, tune_texts
from sparcom_jax.tune.trainer import Trainer
from sparcom_jax.tune.write import MADE, write_outcome

TRAINING = "training"
"""Directory of the checkpoints, below the output, until all is written."""


def finetune(
    model: ModelDir | str | Path,
    instructions: InstructionSet | str | Path,
    train: str,
    output: str | Path,
    settings: TuneSettings = TuneSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
    *,
    run: Run | str | Path | None = None,
) -> dict[str, Any]:
    """Trains a part of a model on the responses of instructions, and evaluates all categories meanwhile.

    The output holds `model/`, which is as `convert` writes it; with LoRA `adapter/`, in PEFT's format; with units
    `trained.safetensors`, those that were trained; tables, and `summary.json`, written last. Parameters that are not
    trained are the same, bit by bit. Started again, it goes on from its last checkpoint, and comes to the same bits;
    `begun.json` says what it was begun with.

    Args:
      model: the model, or its directory.
      instructions: rows with responses, their file, or `hexainst`.
      train: what is trained: `units:NAME:CATEGORY` (neurons: gate and up rows, down columns), `experts:NAME:CATEGORY`,
        `random:NAME:CATEGORY` (as many other neurons of the same layers and deciles of frequency), `layers:0,5-7`,
        `all`, or `lora:RANK`.
      output: directory to make.
      settings: how, and on which of the instructions.
      execution: where and how the model runs.
      run: the run that has the units; without it, NAME is a safetensors file of units.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the input is at fault; what lies in the output is no training, or one with other settings; the loss
        or its gradient is not finite, in which case the state before is in the checkpoint, or where that is the cause,
        the last one that was saved; or nothing can be written.
    """
    model, instructions, output = as_model(model), as_instructions(instructions), Path(output)
    run = None if run is None else as_run(run)
    settings.check()
    execution.check()
    model.require_head("a loss")
    if jax.process_count() > 1:
        raise InputError("finetune runs in one process, with all devices of its host: give it no --coordinator")
    own = (output / BEGUN).exists()
    if not own:
        for part in (SUMMARY, TRAINING, *MADE):  # of another, and not to be deleted as this training's
            require_absent(output / part)
    if run is not None:
        run.require_complete()
    texts = tune_texts(model, instructions, settings)
    placement = make_placement(execution.placement, model.config)
    plan = schedule(texts, settings, execution.batch_tokens, placement.data)
    job = Job(model, instructions, choose(parse_train(train), model, run, settings), texts, plan, settings, execution)
    dtype = compute_dtype(execution.dtype, model.dtype)
    if not own:
        require_space(output, _written_bytes(job))
        start_results(output, "finetune")
    require_begun(output / BEGUN, _begun(job, dtype, placement.mesh.size))
    if (output / SUMMARY).exists():
        say(f"{output}: finished before")
        shutil.rmtree(output / TRAINING, ignore_errors=True)  # where a kill came before it was deleted
        return read_result(output, TUNING_TABLES).summary
    checkpoints = Checkpoints(output / TRAINING)
    try:
        params = jax.tree.leaves(model.restore(placement.param_shardings(model.config), model.dtype))
        steps = Steps(job.trained, placement, dtype, settings, len(plan.steps))
        training = steps.begin(job.trained.begin(params, settings.seed))
        kept = [params[number].astype(dtype) for number in job.trained.kept]
        del params
        trainer = Trainer(job, steps, kept, checkpoints)
        sizes = {"parameters": _bytes(kept), "trained": _bytes(training.values), "optimizer": _bytes(training.state)}
        values = jax.device_get(trainer.run(training))
    finally:
        checkpoints.close()
    told = write_outcome(output, job, values, trainer.history, sizes)
    shutil.rmtree(output / TRAINING)
    return told


def _begun(job: Job, dtype: str, devices: int) -> dict[str, Any]:
    """All that a training depends on."""
    return {
        "train": job.choice.told,
        "settings": asdict(job.settings),
        "execution": asdict(job.execution),
        "dtype": dtype,
        "devices": devices,
        "model": job.model.digest,
        "tokenizer": job.model.tokenizer_digest,
        "instructions": job.instructions.digest,
    }


def _written_bytes(job: Job) -> int:
    """Of the model, and of two checkpoints, as one stays until the next is whole: values, AdamW's, the best."""
    checkpoint = 4 * job.trained.count() * (4 if job.settings.patience else 3)
    model = stored_bytes(job.model.config, job.model.dtype) if job.settings.keep_model else 0
    return 2 * checkpoint + model


def _bytes(tree: Any) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))
