"""Compares two models over the same instructions: what tuning changed, or what two architectures have in common."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis import change, likeness
from sparcom_jax.analysis.changed import changed_units
from sparcom_jax.analysis.settings import CompareSettings
from sparcom_jax.analysis.sides import Side, difference_of_architecture, differences, measure_side, require_comparable
from sparcom_jax.resampling import bootstrap_weights
from sparcom_jax.results.columns import Table
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import (
    CATEGORY_OVERLAP,
    CHANGED_UNITS,
    DEPTH_PROFILE,
    DEPTH_SHIFT,
    FREQUENCY_DRIFT,
    INSTRUCTION_OVERLAP,
    MATRIX_CORRELATION,
    ROUTING_DRIFT,
    TABLES,
    UNITS,
)
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import DEFAULT_SET, Sets, open_sets

OF_ANY_TWO = (DEPTH_PROFILE, MATRIX_CORRELATION)
IN_SUMMARY = (CATEGORY_OVERLAP, DEPTH_SHIFT, MATRIX_CORRELATION)

Rows = list[Sequence[object]]


def compare(
    base: Run | str | Path,
    tuned: Run | str | Path,
    output: str | Path,
    settings: CompareSettings = CompareSettings(),
    *,
    set_name: str = DEFAULT_SET,
) -> dict[str, Any]:
    """Compares two models over the same instructions, and writes the tables.

    Models of one family with the same groups of units are compared unit by unit; any two by the depth of their units
    and by the pattern of their category tables. A table that does not apply is absent, and the summary says why.

    Args:
      base: a complete run with sets, or its path or URL.
      tuned: another, of the tuned model or of any other model.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.
      settings: how to compare.
      set_name: which sets; both runs must have them, made in the same way.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: a run is incomplete or has no such sets, one of these is empty, the two do not compare, or a setting
        is out of range.
    """
    base, tuned, output = as_run(base), as_run(tuned), Path(output)
    settings.check()
    for run in (base, tuned):
        run.require_complete()
    before, after = open_sets(base, set_name), open_sets(tuned, set_name)
    require_comparable(before, after)
    for sets in (before, after):
        sets.require_units()
    start_results(output, "compare")
    absent = _absent(before, after)
    sides = measure_side("base", before, settings.rho), measure_side("tuned", after, settings.rho)
    correlation = likeness.matrix_correlation(*sides, settings)
    tables = {DEPTH_PROFILE: list(likeness.depth_profile(*sides)), MATRIX_CORRELATION: list(correlation)}
    if UNITS.name not in absent:
        tables |= _changes(*sides, settings, absent)
    for table, rows in tables.items():
        write_table(output, table, rows)
    return write_summary(output, {
        "kind": "compare",
        "base": _describe(before),
        "tuned": _describe(after),
        "settings": asdict(settings),
        "categories": base.categories,
        "capture_differences": differences(_how_captured(base), _how_captured(tuned)),
        "tables": [table.name for table in TABLES["compare"] if table in tables],
        "absent": absent,
        "core_units": _unit_totals(tables.get(UNITS, [])),
        **{Path(table.name).stem: [table.record(row) for row in tables.get(table, [])] for table in IN_SUMMARY},
    })  # fmt: skip


def _absent(base: Sets, tuned: Sets) -> dict[str, str]:
    reason = difference_of_architecture(base, tuned)
    if reason:
        return {table.name: reason for table in TABLES["compare"] if table not in OF_ANY_TWO}
    absent = {}
    if kept := [side for side, sets in (("base", base), ("tuned", tuned)) if sets.run.selection is not None]:
        absent[FREQUENCY_DRIFT.name] = f"the capture of {' and '.join(kept)} kept sets, not counts"
    if "routed" not in base.run.groups:
        absent[ROUTING_DRIFT.name] = "the models have no routed experts"
    return absent


def _how_captured(run: Run) -> dict[str, Any]:
    return run.manifest.capture | run.manifest.execution


def _changes(base: Side, tuned: Side, settings: CompareSettings, absent: dict[str, str]) -> dict[Table, Rows]:
    run, random = base.run, np.random.default_rng(settings.seed)
    resampled = bootstrap_weights(run.category, len(run.categories), settings.bootstraps, random)
    overlaps = list(change.instruction_overlap(base, tuned))
    tables: dict[Table, Rows] = {
        INSTRUCTION_OVERLAP: overlaps,
        CATEGORY_OVERLAP: list(change.category_overlap(base, overlaps, resampled)),
        UNITS: list(change.units(base, tuned)),
        CHANGED_UNITS: list(changed_units(base, tuned)),
        DEPTH_SHIFT: list(change.depth_shift(base, tuned)),
    }
    if FREQUENCY_DRIFT.name not in absent:
        tables[FREQUENCY_DRIFT] = list(change.frequency_change(base, tuned, resampled))
    if ROUTING_DRIFT.name not in absent:
        tables[ROUTING_DRIFT] = list(change.routing_change(base, tuned, resampled))
    return tables


def _unit_totals(rows: Rows) -> list[dict[str, Any]]:
    names = ("base", "tuned", "retained", "gained", "lost")
    totals: dict[tuple[object, object], np.ndarray] = {}
    for group, category, _, _, *counts in rows:
        totals[group, category] = totals.get((group, category), 0) + np.array(counts)
    return [{"group": group, "category": category, **dict(zip(names, total, strict=True))}
            for (group, category), total in totals.items()]  # fmt: skip


def _describe(sets: Sets) -> dict[str, Any]:
    groups = {name: {"units": group.unit_count, "layers": group.layers} for name, group in sets.groups.items()}
    return {**sets.run.record(), "set": sets.record(), "groups": groups}
