"""Units switched off or scaled in a Hugging Face checkpoint, so that whatever loads it runs the edited model."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.convert.checkpoint import Directory, open_directory
from sparcom_jax.convert.model_dir import locate, model_digest
from sparcom_jax.convert.output import require_absent, whole_directory
from sparcom_jax.convert.patch import Change, copied_files, write_patched
from sparcom_jax.convert.slices import tensor_slices
from sparcom_jax.convert.weights import SourceWeights
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import progress
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.units import as_units, require_of_run
from sparcom_jax.units.file import read_safetensors
from sparcom_jax.units.groups import TARGETS
from sparcom_jax.units.parameters import ParameterSlice, Role, unit_slices
from sparcom_jax.units.unit_set import UnitSet, require_of_model
from sparcom_jax.version import VERSION

RECORD = "sparcom_edit.json"
WRITES: tuple[Role, ...] = ("down", "down_bias")
"""What a unit writes with. A neuron has no down bias of its own, an expert has."""
NEVER = {"float32": -1e30, "bfloat16": -1e30, "float16": -6e4}
"""A router bias with which an expert is never chosen: minus infinity would not be a finite checkpoint."""


def edit(
    source: str | Path,
    units: UnitSet | str | Path,
    category: str,
    output: str | Path,
    settings: EditSettings = EditSettings(),
    *,
    run: Run | str | Path | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint in which the units of a category are switched off or scaled.

    The output has the source's files, format, dtype, shards and tokenizer; tensors of which no unit is a part are the
    same, byte by byte. Neurons act by their columns of down_proj, so that these become 0 or are multiplied; so do
    experts, with their down bias, or never chosen ones (`experts="mask"`) by the bias of the router. The directory also
    holds `sparcom_edit.json`, which says what was edited; it appears whole or not at all.

    Args:
      source: a Hugging Face directory of safetensors, or the id of a model on the hub.
      units: the units, their name below `units/` of the run, or without a run a safetensors file of units.
      category: whose units are edited.
      output: directory to make.
      settings: what becomes of them.
      run: the run that chose the units; the source must be the model that it was captured from.

    Returns:
      The content of `sparcom_edit.json`.

    Raises:
      InputError: the output exists; the units are of another model, or of the category there are none; the checkpoint
        is quantised or cannot express the edit; a value does not fit into its dtype; or nothing can be written.
    """
    settings.check()
    output = Path(output).absolute()
    require_absent(output)
    directory = locate(str(source))
    if not directory.is_dir():
        raise InputError(f"{source}: is a GGUF file, whose blocks of quantised values cannot hold an edit exactly; "
                         f"edit the Hugging Face directory")  # fmt: skip
    opened = open_directory(directory)
    if opened.hf.quantization is not None:
        raise InputError(f"{source}: is quantised, so that a part of a tensor cannot be set exactly; save the model in "
                         f"floating point")  # fmt: skip
    weights = SourceWeights(opened.config, opened.tensors, str(source))
    chosen = _units_of(source, opened, weights, units, run)
    slices = list(_slices(opened.config, chosen, category, settings, str(source)))
    changes: dict[str, list[Change]] = {}
    value = NEVER[weights.dtype] if settings.experts == "mask" else None
    for part in tensor_slices(opened.config, slices):
        changes.setdefault(opened.names[part.name], []).append(Change(part, settings.factor, value))
    record = _record(source, opened, chosen, category, settings, weights.dtype, len(changes))
    count = len(copied_files(directory, opened.files)[0]) + len(changes)
    with whole_directory(output) as partial, progress("editing", count, "files and tensors") as bar:
        write_patched(directory, opened.files, changes, partial, bar.advance)
        (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def _units_of(
    source: str | Path, opened: Directory, weights: SourceWeights, units: UnitSet | str | Path,
    run: Run | str | Path | None,
) -> UnitSet:  # fmt: skip
    """The units, of which it is known that they are of this model.

    Raises:
      InputError: they are not.
    """
    if run is not None:
        run = as_run(run)
        units = as_units(run, units if isinstance(units, UnitSet) else str(units))
        require_of_run(run, units)
        with progress("comparing", len(opened.names), "tensors") as bar:
            digest = model_digest(opened.config, weights.hash(bar.advance))
        if digest != run.manifest.model.digest:
            raise InputError(f"{run.location}: was captured from another model than {source}")
    elif not isinstance(units, UnitSet):
        if not Path(units).is_file():
            raise InputError(f"{units}: no such file; without a run, units are a safetensors file of units")
        units = read_safetensors(units)
    require_of_model(units, opened.config, str(source))
    return units


def _slices(
    config: DecoderConfig, units: UnitSet, category: str, settings: EditSettings, source: str
) -> Iterator[ParameterSlice]:
    """What the edit changes.

    Raises:
      InputError: there is nothing to change, or the parameters cannot express it.
    """
    masked = settings.experts == "mask"
    if masked and not (config.experts and config.experts.bias):
        raise InputError(f"{source}: its router has no bias, and no weights of it make an expert that is never chosen; "
                         f"with experts=zero experts are chosen and write nothing")  # fmt: skip
    roles = ("router_bias",) if masked else WRITES
    for name, layer, mask in _chosen(units, category, settings.target):
        if masked and (left := np.count_nonzero(~mask)) < _per_token(config):
            raise InputError(f"{source}: layer {layer} is left with {left} experts, but a token needs "
                             f"{_per_token(config)}")  # fmt: skip
        yield from (one for one in unit_slices(config, name, layer, np.argwhere(mask)) if one.role in roles)


def _per_token(config: DecoderConfig) -> int:
    assert config.experts is not None
    return config.experts.per_token


def _chosen(units: UnitSet, category: str, target: str) -> list[tuple[str, int, Bool[np.ndarray, "..."]]]:
    """The units of a category that are edited: group, the model's number of the layer, and mask of the layer.

    Raises:
      InputError: there is no such category, or it has no such units.
    """
    if category not in units.categories:
        raise InputError(f"{units.title} have no category {category!r}; they are of {', '.join(units.categories)}")
    at = list(units.categories).index(category)
    found = [
        (name, layer, mask)
        for name in TARGETS[target]
        if name in units.groups
        for layer, mask in zip(units.groups[name].layers, units.mask[name][at], strict=True)
        if mask.any()
    ]
    if not found:
        raise InputError(f"{units.title} have no {target} of {category}, so there is nothing to edit")
    return found


def _record(
    source: str | Path, opened: Directory, units: UnitSet, category: str, settings: EditSettings, dtype: str,
    tensors: int,
) -> dict[str, Any]:  # fmt: skip
    chosen = _chosen(units, category, settings.target)
    count = int(sum(np.count_nonzero(mask) for _, _, mask in chosen))
    return {
        "sparcom_jax": VERSION,
        "source": str(source),
        "family": opened.config.family,
        "units": {"name": units.name, "selector": units.selector, "digest": units.digest},
        "category": category,
        "settings": asdict(settings),
        "edited": {settings.target: count, "layers": len({layer for _, layer, _ in chosen}), "tensors": tensors},
        "consequence": _consequence(settings, count, dtype),
    }


def _consequence(settings: EditSettings, count: int, dtype: str) -> str:
    """What the edited model does, in one sentence."""
    if settings.experts == "mask":
        return f"The router never chooses {count:,} experts: their bias is {NEVER[dtype]:g}."
    what = f"{count:,} {settings.target}"
    chosen = "are chosen as before and " if settings.target == "experts" else ""
    if not settings.factor:
        return f"{what} {chosen}write nothing: their columns of the down projection are 0."
    rounded = "" if dtype == "float32" else f", rounded to {dtype}"
    by = f"by their columns of the down projection{rounded}"
    return f"{what} {chosen}write {settings.factor:g} times what they wrote, {by}."
