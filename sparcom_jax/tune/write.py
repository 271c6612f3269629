"""What a training leaves: the tuned model, its adapter, the units that were trained, tables and a summary.

Axis legend: I instructions that are read, C categories.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sparcom_jax.convert.adapter import Product, write_adapter
from sparcom_jax.convert.checkpoint import COPIED, Checkpoint
from sparcom_jax.convert.export import ParameterTensors, parameters_of
from sparcom_jax.convert.hf_config import read_config
from sparcom_jax.convert.model_dir import ModelDir, write_model
from sparcom_jax.convert.output import whole_directory
from sparcom_jax.models.stored import stored_params
from sparcom_jax.resampling import LEAST_FOR_INTERVAL, bootstrap_weights, category_means, interval, one_hot
from sparcom_jax.results.files import write_summary, write_table
from sparcom_jax.results.tuning import EVALUATION, EVALUATION_ROWS, STEPS, TUNING_TABLES
from sparcom_jax.tune.choice import Choice
from sparcom_jax.tune.job import Job
from sparcom_jax.tune.texts import TuneTexts
from sparcom_jax.tune.trained import LowRank, Trained, Values
from sparcom_jax.units.file import write_safetensors

BOOTSTRAPS = 1000
MADE = ("model", "adapter")
"""Directories that a training may make, below its output."""


def write_outcome(
    output: Path, job: Job, values: Values, history: dict[str, Any], sizes: dict[str, int]
) -> dict[str, Any]:
    """Writes all of it; `summary.json` last.

    Args:
      output: the directory.
      job: what the training was made of.
      values: those that are kept.
      history: as `Trainer` has it.
      sizes: bytes of the parameters, what was trained of them, and the optimizer's state.

    Returns:
      The summary.

    Raises:
      InputError: it cannot be written, or a value does not fit into the dtype of the model.
    """
    model, choice, texts, settings = job.model, job.choice, job.texts, job.settings
    kept = history["best"] if settings.patience else history["step"]
    for part in MADE:  # of this training, if it was cut off here
        shutil.rmtree(output / part, ignore_errors=True)
    if settings.keep_model:
        _write_model(output / "model", model, choice, values)
    if choice.told["kind"] == "lora":
        with whole_directory(output / "adapter") as partial:
            write_adapter(model.config, _products(choice.trained, values), settings.lora_alpha,
                          str(model.manifest["source"]), partial)  # fmt: skip
    if choice.units is not None:
        write_safetensors(choice.units, output / "trained.safetensors")
    write_table(output, STEPS, ((step, *one) for step, one in enumerate(history["steps"], 1)))
    write_table(output, EVALUATION, _evaluation(texts, history, settings.seed))
    write_table(output, EVALUATION_ROWS, _rows(texts, history))
    by_id = {row["id"]: row for row in job.instructions.rows}
    held_out = [by_id[texts.names[row]] for row in texts.parts.get("held_out", [])]
    seconds = sorted(history["seconds"][1:] or history["seconds"])  # the first step is compiled
    tokens = int(texts.texts.lengths[texts.learnt].sum()) * settings.epochs / len(job.plan.steps)
    return write_summary(output, {
        "kind": "finetune",
        "model": {"family": model.config.family, "path": str(model.path), "source": str(model.manifest["source"]),
                  "digest": model.digest, "parameters": model.manifest["parameters"],
                  "num_layers": model.config.num_layers},
        "run": str(output),
        "train": choice.told | {"parameters": choice.trained.count()},
        "instructions": {"source": job.instructions.source, "digest": job.instructions.digest},
        "settings": asdict(settings),
        "execution": asdict(job.execution),
        "categories": list(texts.categories),
        "learnt": np.bincount(texts.category[texts.learnt], minlength=len(texts.categories)),
        "steps": history["step"],
        "of_steps": len(job.plan.steps),
        "kept": kept,
        "filled": job.plan.filled,
        "bytes": sizes,
        "tokens_per_second": tokens / seconds[len(seconds) // 2],
        # Whether none of the held-out instructions chose the units.
        "held_out": int(not choice.chosen_by(held_out)),
        "tables": [table.name for table in TUNING_TABLES],
    })  # fmt: skip


def _write_model(output: Path, model: ModelDir, choice: Choice, values: Values) -> None:
    cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    before = parameters_of(model.config, model.restore(cpu, model.dtype))

    @lru_cache(maxsize=4)  # of a layer's experts, every tensor asks for the parameter of all
    def parameter(path: str) -> np.ndarray:
        return choice.trained.stored(values, path, before(path))

    def write_files(partial: Path) -> None:
        for name in COPIED:
            if (model.path / name).exists():
                shutil.copyfile(model.path / name, partial / name)

    output = output.absolute()
    tensors = ParameterTensors(model.config, parameter, model.dtype)
    made = (model.manifest["conversion"] or {}) | {"tuned": choice.told | {"of": model.digest}}
    checkpoint = Checkpoint(str(output), read_config(model.path), model.config, tensors, made, write_files)
    write_model(checkpoint, output, str(output))


def _products(trained: Trained, values: Values) -> dict[str, Product]:
    """The products of low rank by the path of the stored parameter."""
    found = {}
    for path, one in stored_params(trained.config).items():
        name = trained.leaves[one.leaf][0]
        if isinstance(trained.parts.get(name), LowRank):
            found[path] = Product(values[name]["a"][one.repeat], values[name]["b"][one.repeat])
    return found


def _evaluation(texts: TuneTexts, history: dict[str, Any], seed: int) -> Iterator[Sequence[object]]:
    for part, rows in texts.parts.items():
        category = texts.category[rows]
        observed = one_hot(category[None], len(texts.categories))
        drawn = bootstrap_weights(category, len(texts.categories), BOOTSTRAPS, np.random.default_rng([seed, 4]))
        first = np.asarray(history["evaluations"][0]["nll"])[rows]
        for one in history["evaluations"]:
            nll = np.asarray(one["nll"])[rows]
            values = np.stack([nll, nll - first], axis=1)
            means, change = category_means(values, observed)[0].T
            low, high = interval(category_means(values, drawn)[:, :, 1])
            for index, name in enumerate(texts.categories):
                if count := int(np.count_nonzero(category == index)):
                    ends = (low[index], high[index]) if one["step"] and count >= LEAST_FOR_INTERVAL else ("", "")
                    yield one["step"], part, name, count, means[index], change[index], *ends


def _rows(texts: TuneTexts, history: dict[str, Any]) -> Iterator[Sequence[object]]:
    for part, rows in texts.parts.items():
        for row in rows.tolist():
            before, after = history["evaluations"][0]["nll"][row], history["after"][row]
            yield part, texts.names[row], texts.categories[texts.category[row]], before, after
