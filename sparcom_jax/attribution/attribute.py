"""What each unit contributes to the likelihood of the reference responses, text by text, into the run."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import PartitionSpec as P

from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.attribution.step import attribution_step
from sparcom_jax.batches.packing import Bin, feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.manifest import describe_devices, package_versions
from sparcom_jax.causal.texts import require_model_of, texts_of
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import PlacedModel, place_model
from sparcom_jax.engine.placement import Placement, make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.progress import progress, say
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.attribution import (
    Attribution,
    attribution_path,
    done_array,
    open_attribution,
    rows_of_a_block,
    value_array,
)
from sparcom_jax.store.lock import only_writer
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.units.groups import Group

GRADIENT_BYTES = 256 << 20
"""What the gradients of the texts of a batch may take: every text has one of its own, as large as all units."""


def attribute(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    settings: AttributeSettings = AttributeSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> Attribution:
    """Attributes the log likelihood of instructions' reference responses to all neurons and experts.

    The value of a unit is what switching it off would take from the mean log likelihood of the response's tokens, to
    first order, in nats per token: the sum over all tokens of the text of activation times gradient. Above 0, the unit
    helps. Run it again after a kill and it goes on where it stopped; the values come out the same bit by bit.

    Args:
      model: the model that the run was captured from, or its directory.
      run: a complete run, whose instructions have responses, or its path or URL.
      settings: how to attribute.
      execution: where and how the model runs.

    Returns:
      The attribution, as it is stored below `RUN/attribution`.

    Raises:
      InputError: the run is incomplete, lacks responses, or was captured from another model; an attribution by this
        method was begun with something else; or a likelihood or a value is not finite.
    """
    model, run = as_model(model), as_run(run)
    settings.check()
    execution.check()
    model.require_head("attribution")
    run.require_complete()
    require_model_of(run, model)
    placement = make_placement(execution.placement, model.config)
    dtype = compute_dtype(execution.dtype, model.dtype)
    rows = run.first_rows(settings.per_category)
    texts, size = texts_of(model, run, rows), rows_of_a_block(run.groups)
    attributes = _attributes(run, settings, execution, placement, dtype)
    path, store = attribution_path(settings.method), run.store
    with only_writer(f"{run.location}/{path}", 0, 1):
        if _finished_before(run, path, attributes):
            return open_attribution(run, settings.method)
        done = store.create_array(done_array(settings.method, len(rows), size))
        was = np.asarray(finished(done.read(), run.location)) > 0
        arrays = {name: store.create_array(value_array(settings.method, group, len(rows), size))
                  for name, group in run.groups.items()}  # fmt: skip
        for name in run.groups:
            store.write_group(f"{path}/{name}")
        row_bytes = sum(4 * group.unit_count for group in run.groups.values()) // placement.model
        plan = make_plan(texts.lengths, size, execution.batch_tokens, max(GRADIENT_BYTES // row_bytes, 1))
        names = [run.instructions[row]["id"] for row in rows]
        blocks = Values(place_model(model, placement, dtype), texts, names, settings.path, run.groups)
        with progress("attribute", len(rows), "instructions", int(was.sum())) as bar:
            for bins, start in zip(plan.blocks, range(0, len(rows), size), strict=True):
                block = slice(start, min(start + size, len(rows)))
                if was[block].all():
                    continue
                made = blocks.of(bins, block, bar.advance)
                writing = [arrays[name][block].write(values) for name, values in made.items()]
                for future in writing:
                    finished(future, run.location)
                finished(done[block].write(np.uint8(1)), run.location)
        store.write_group(path, {**attributes, "complete": True})
    return open_attribution(run, settings.method)


def _attributes(
    run: Run, settings: AttributeSettings, execution: ExecutionSettings, placement: Placement, dtype: str
) -> dict[str, Any]:
    """All that the values depend on."""
    devices, versions = describe_devices(placement), package_versions()
    made_of: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "method": settings.method,
        "steps": len(settings.path),
        "per_category": settings.per_category,
        "groups": list(run.groups),
        "run_digest": run.digest,
        "model_digest": run.manifest.model.digest,
        "instructions_digest": run.manifest.instructions.digest,
        "execution": asdict(execution),
        "dtype": dtype,
        "platform": devices.platform,
        "devices_of_a_batch": placement.model,
        "kernels": devices.kernels,
        "versions": {name: versions[name] for name in ("jax", "sparcom_jax")},
    }
    plain: dict[str, Any] = json.loads(json.dumps(made_of))
    return plain


def _finished_before(run: Run, path: str, attributes: dict[str, Any]) -> bool:
    """Whether the attribution is there, finished; where there is none, it is begun.

    Raises:
      InputError: it was begun with something else.
    """
    existing = run.store.read_attributes(path)
    if existing is None:
        run.store.write_group("attribution")
        run.store.write_group(path, {**attributes, "complete": False})
        return False
    for field, now in attributes.items():
        if (was := existing.get(field)) != now:
            raise InputError(f"{run.location}/{path}: was made with another {field} ({was!r}, now {now!r}); delete it "
                             f"to make it again")  # fmt: skip
    if existing.get("complete"):
        say(f"{run.location}/{path}: finished before")
        return True
    return False


@dataclass(frozen=True)
class Values:
    """The values of blocks of instructions.

    Attributes:
      model: the model on its devices.
      texts: prompts with their responses, whose tokens count.
      names: what the texts are called.
      path: what all units are multiplied by, point after point.
      groups: the groups of units, by name.
    """

    model: PlacedModel
    texts: TokenizedSet
    names: Sequence[str]
    path: tuple[float, ...]
    groups: dict[str, Group]

    def of(self, bins: Sequence[Bin], rows: slice, advance: Callable[[int], object]) -> dict[str, np.ndarray]:
        """The values of one block, group -> `[rows, *units]` float32.

        Args:
          bins: its batches.
          rows: its instructions.
          advance: told of every batch, how many instructions it has.

        Raises:
          InputError: a likelihood, or a value, of an instruction is not finite.
        """
        placement = self.model.placement
        step = partial(attribution_step, self.model.config, placement=placement)
        path = placement.put(np.asarray(self.path, np.float32), P())
        count = rows.stop - rows.start
        values = {name: np.zeros((count, *group.shape), np.float32) for name, group in self.groups.items()}
        fed = feeds(self.texts, bins, placement.data, self.texts.predicting)
        for found in finite_sweep(self.model, fed, step, self.names, path):
            at = np.asarray(found.texts, int) - rows.start
            for name, of_group in found.values.items():
                values[name][at] = np.moveaxis(of_group, 1, 0)[: len(at)]
            advance(len(at))
        for name, of_group in values.items():
            whole = np.isfinite(of_group).all(axis=tuple(range(1, of_group.ndim)))
            if lacking := [self.names[rows.start + row] for row in np.flatnonzero(~whole)]:
                raise InputError(f"the gradient at {name} is not finite: instruction {first_of(lacking)}; try a wider "
                                 f"execution.dtype")  # fmt: skip
        return values
