"""Units switched off, scaled or taken out in a Hugging Face checkpoint, for whatever loads it."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.convert.output import require_absent, whole_directory
from sparcom_jax.convert.patch import Change, copied_files, write_patched
from sparcom_jax.convert.slices import tensor_slices
from sparcom_jax.edit.means import shifts
from sparcom_jax.edit.prune import Removed, chosen_units, write_pruned
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.edit.source import EditedSource, open_source
from sparcom_jax.errors import InputError
from sparcom_jax.progress import progress
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import TARGETS
from sparcom_jax.units.parameters import ParameterSlice, Role, unit_slices
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.version import VERSION

RECORD = "sparcom_edit.json"
WRITES: tuple[Role, ...] = ("down", "down_bias")
"""What a unit writes with. A neuron has no down bias of its own, an expert has."""
NEVER = {"float32": -1e30, "bfloat16": -1e30, "float16": -6e4}
"""A router bias with which an expert is never chosen: minus infinity would not be a finite checkpoint."""

Chosen = list[tuple[str, int, Bool[np.ndarray, "..."]]]
"""Units that are edited: group, the model's number of the layer, and mask of the layer."""


def edit(
    source: str | Path,
    units: UnitSet | str | Path,
    category: str,
    output: str | Path,
    settings: EditSettings = EditSettings(),
    *,
    run: Run | str | Path | None = None,
    model: ModelDir | str | Path | None = None,
) -> dict[str, Any]:
    """Writes a checkpoint in which the units of a category are switched off, scaled or taken out.

    The output has the source's files, format, dtype, shards and tokenizer; tensors of which no unit is a part are the
    same, byte by byte. Neurons act by their columns of down_proj, so that these become 0 or are multiplied; so do
    experts, with their down bias, or never chosen ones (`experts="mask"`) by the bias of the router. What neurons write
    at their mean (`how="mean"`) is added to the bias of down_proj. With `prune`, so many units of every layer are not
    there any more, and config.json says so. The directory also holds `sparcom_edit.json`, which says what was edited;
    it appears whole or not at all.

    Args:
      source: a Hugging Face directory of safetensors, or the id of a model on the hub.
      units: the units, their name below `units/` of the run, or without a run a safetensors file of units.
      category: whose units are edited.
      output: directory to make.
      settings: what becomes of them.
      run: the run that chose the units; the source must be the model that it was captured from.
      model: the converted model, for `how="mean"`: it reads the run's instructions with their responses.

    Returns:
      The content of `sparcom_edit.json`.

    Raises:
      InputError: the output exists; the units are of another model, or of the category there are none; the checkpoint
        is quantised or cannot express the edit; a value does not fit into its dtype; or nothing can be written.
    """
    settings.check()
    output = Path(output).absolute()
    require_absent(output)
    if settings.how == "mean" and (run is None or model is None):
        raise InputError("how mean needs the run and the converted model: the means are over its instructions")
    if settings.how != "mean" and model is not None:
        raise InputError(f"model has no effect with how {settings.how}; leave it out")
    opened = open_source(source, units, category, run)
    if settings.prune:
        if run is None and not isinstance(units, UnitSet):
            raise InputError("prune takes the units with the highest scores, which a file does not have: give the run")
        removed = chosen_units(opened, settings.target, settings.prune)
        record = _record(opened, category, settings, _pruned(removed, settings))
        with whole_directory(output) as partial:
            write_pruned(opened, removed, partial)
            (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        return record
    chosen = _chosen(opened, category, settings.target)
    changes: dict[str, list[Change]] = {}
    for change in _changes(opened, chosen, settings):
        changes.setdefault(opened.opened.names[change.part.name], []).append(change)
    if settings.how == "mean":
        assert run is not None
        assert model is not None
        for change in shifts(opened, chosen, model, run):
            changes.setdefault(opened.opened.names[change.part.name], []).append(change)
    count = int(sum(np.count_nonzero(mask) for _, _, mask in chosen))
    made = {
        "edited": {settings.target: count, "layers": len({layer for _, layer, _ in chosen}), "tensors": len(changes)},
        "consequence": _consequence(settings, count, opened.weights.dtype),
    }
    record = _record(opened, category, settings, made)
    copied, _ = copied_files(opened.directory, opened.opened.files)
    total, size = len(copied) + len(changes), sum((opened.directory / name).stat().st_size for name in copied)
    with whole_directory(output, size) as partial, progress("editing", total, "files and tensors") as bar:
        write_patched(opened.directory, opened.opened.files, changes, partial, bar.advance)
        (partial / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    return record


def _changes(source: EditedSource, chosen: Chosen, settings: EditSettings) -> Iterator[Change]:
    """What becomes of the tensors that the units are made of."""
    value = NEVER[source.weights.dtype] if settings.experts == "mask" else None
    for part in tensor_slices(source.config, _slices(source, chosen, settings)):
        yield Change(part, settings.factor, value)


def _slices(source: EditedSource, chosen: Chosen, settings: EditSettings) -> Iterator[ParameterSlice]:
    """What the edit changes.

    Raises:
      InputError: the parameters cannot express it.
    """
    masked, config = settings.experts == "mask", source.config
    if masked and not (config.experts and config.experts.bias):
        raise InputError(f"{source.name}: its router has no bias, and no weights of it make an expert that is never "
                         f"chosen; with experts=zero experts are chosen and write nothing")  # fmt: skip
    roles = ("router_bias",) if masked else WRITES
    for name, layer, mask in chosen:
        needed = config.experts.per_token if config.experts else 0
        if masked and (left := np.count_nonzero(~mask)) < needed:
            raise InputError(f"{source.name}: layer {layer} is left with {left} experts, but a token needs {needed}")
        yield from (one for one in unit_slices(config, name, layer, np.argwhere(mask)) if one.role in roles)


def _chosen(source: EditedSource, category: str, target: str) -> Chosen:
    """The units of a category that are edited.

    Raises:
      InputError: it has no such units.
    """
    units = source.units
    found = [
        (name, layer, mask)
        for name in TARGETS[target]
        if name in units.groups
        for layer, mask in zip(units.groups[name].layers, units.mask[name][source.category], strict=True)
        if mask.any()
    ]
    if not found:
        raise InputError(f"{units.title} have no {target} of {category}, so there is nothing to edit")
    return found


def _record(source: EditedSource, category: str, settings: EditSettings, made: dict[str, Any]) -> dict[str, Any]:
    units = source.units
    return {
        "sparcom_jax": VERSION,
        "source": source.name,
        "family": source.config.family,
        "units": {"name": units.name, "selector": units.selector, "digest": units.digest},
        "category": category,
        "settings": asdict(settings),
        **made,
    }


def _pruned(removed: Removed, settings: EditSettings) -> dict[str, Any]:
    count = int(sum(places.size for places in removed.values()))
    of = "; of routed ones, of every expert" if "routed" in removed else ""
    return {
        "edited": {settings.target: count, "layers": sum(len(places) for places in removed.values())},
        "consequence": f"{settings.prune:,} {settings.target} of every layer are not there any more{of}.",
    }


def _consequence(settings: EditSettings, count: int, dtype: str) -> str:
    """What the edited model does, in one sentence."""
    if settings.experts == "mask":
        return f"The router never chooses {count:,} experts: their bias is {NEVER[dtype]:g}."
    what = f"{count:,} {settings.target}"
    rounded = "" if dtype == "float32" else f", rounded to {dtype}"
    if settings.how == "mean":
        return f"{what} write what they write at their mean, whatever they read, by the bias of down_proj{rounded}."
    chosen = "are chosen as before and " if settings.target == "experts" else ""
    if not settings.factor:
        return f"{what} {chosen}write nothing: their columns of the down projection are 0."
    by = f"by their columns of the down projection{rounded}"
    return f"{what} {chosen}write {settings.factor:g} times what they wrote, {by}."
