"""Compares two models over the same instructions: what tuning changed, or what two architectures have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis import change, likeness
from sparcom_jax.analysis.evaluate import require_settings
from sparcom_jax.analysis.resampling import bootstrap_weights
from sparcom_jax.analysis.sides import Side, difference_of_architecture, differences, measure_side, require_comparable
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import (
    CATEGORY_OVERLAP,
    DEPTH_PROFILE,
    DEPTH_SHIFT,
    FREQUENCY_DRIFT,
    INSTRUCTION_OVERLAP,
    MATRIX_CORRELATION,
    ROUTING_DRIFT,
    TABLES,
    UNITS,
    Table,
)
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets, open_sets

OF_ANY_TWO = (DEPTH_PROFILE, MATRIX_CORRELATION)
IN_SUMMARY = (CATEGORY_OVERLAP, DEPTH_SHIFT, MATRIX_CORRELATION)

Rows = list[Sequence[object]]


def compare(base: Run, tuned: Run, output: Path, *, set_name: str = "frequency", rho: float = 0.5,
            permutations: int = 1000, bootstraps: int = 1000, seed: int = 0) -> dict[str, Any]:  # fmt: skip
    """Compares two models over the same instructions, and writes the tables.

    Models of one family with the same groups of units are compared unit by unit; any two by the depth of their units
    and by the pattern of their category tables. A table that does not apply is absent, and the summary says why.

    Args:
      base: a complete run with sets.
      tuned: another, of the tuned model or of any other model.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.
      set_name: which sets; both runs must have them, made in the same way.
      rho: share of a category's instructions that must hold a unit for it to be core, in (0, 1].
      permutations: most relabellings of the categories in the test of a matrix correlation.
      bootstraps: bootstrap samples of the instructions.
      seed: of all draws; the same seed gives the same files.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: a run is incomplete or has no such sets, one of these is empty, the two do not compare, or a setting
        is out of range.
    """
    require_settings(rho, permutations=permutations, bootstraps=bootstraps)
    for run in (base, tuned):
        run.require_complete()
    before, after = open_sets(base, set_name), open_sets(tuned, set_name)
    require_comparable(before, after)
    for sets in (before, after):
        sets.require_units()
    start_results(output, "compare")
    absent = _absent(before, after)
    sides = measure_side("base", before, rho), measure_side("tuned", after, rho)
    tables = {DEPTH_PROFILE: list(likeness.depth_profile(*sides)),
              MATRIX_CORRELATION: list(likeness.matrix_correlation(*sides, permutations, seed))}  # fmt: skip
    if UNITS.name not in absent:
        tables |= _changes(*sides, bootstraps, seed, absent)
    for table, rows in tables.items():
        write_table(output, table, rows)
    return write_summary(output, {
        "kind": "compare",
        "base": _describe(before),
        "tuned": _describe(after),
        "settings": {"rho": rho, "permutations": permutations, "bootstraps": bootstraps, "seed": seed},
        "categories": base.categories,
        "capture_differences": differences(base.manifest.capture, tuned.manifest.capture),
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


def _changes(base: Side, tuned: Side, bootstraps: int, seed: int, absent: dict[str, str]) -> dict[Table, Rows]:
    run = base.run
    resampled = bootstrap_weights(run.category, len(run.categories), bootstraps, np.random.default_rng(seed))
    overlaps = list(change.instruction_overlap(base, tuned))
    tables: dict[Table, Rows] = {
        INSTRUCTION_OVERLAP: overlaps,
        CATEGORY_OVERLAP: list(change.category_overlap(base, overlaps, resampled)),
        UNITS: list(change.units(base, tuned)),
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
