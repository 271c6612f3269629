"""Generality and uniqueness of the units of every category, against chance, shuffled labels and length."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparcom_jax.analysis.cores import Uniqueness, combinations, core_sets, uniqueness
from sparcom_jax.analysis.correlation import spearman
from sparcom_jax.analysis.depth import relative_depth
from sparcom_jax.analysis.overlap import all_intersections, all_overlaps
from sparcom_jax.analysis.settings import EvaluateSettings
from sparcom_jax.progress import progress
from sparcom_jax.resampling import (
    Draws,
    benjamini_hochberg,
    category_means,
    cell_means,
    interval,
    make_draws,
    mean_of_draws,
    pair_counts,
    two_sided_p,
)
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import (
    COMBINATIONS,
    CORE_UNITS,
    DEPTH,
    INSTRUCTIONS,
    OVERLAP,
    TABLES,
    UNIQUENESS,
)
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import DEFAULT_SET, Sets, open_sets
from sparcom_jax.units.groups import EXPERT_GROUP, Group


@dataclass(frozen=True)
class GroupResult:
    """What is found for one group of units.

    Attributes:
      group: the units.
      cells: by measure, the category table of each value of a cell, `[C, C]`, by its column of `OVERLAP`.
      core: the core sets.
      layer_sizes: |S(i)| by layer.
      uniqueness: of every category.
    """

    group: Group
    cells: dict[str, dict[str, np.ndarray]]
    core: Bool[np.ndarray, "C L U"]
    layer_sizes: Int64[np.ndarray, "I L"]
    uniqueness: Uniqueness


def evaluate(
    run: Run, output: Path, settings: EvaluateSettings = EvaluateSettings(), *, set_name: str = DEFAULT_SET
) -> dict[str, Any]:
    """Measures generality and uniqueness of every category in every group of units, and writes the tables.

    Uniqueness rests on the same draws as the overlaps; it costs
    2 C I U (permutations + bootstraps) operations, so fewer draws are the way to a quick look at a large model.

    Args:
      run: a complete run with sets.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.
      settings: how to measure.
      set_name: which sets.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete or has no such set, the set of an instruction is empty, or a setting is out of
        range.
    """
    settings.check()
    run.require_complete()
    sets = open_sets(run, set_name)
    sets.require_units()
    start_results(output, "evaluate")
    draws = make_draws(run.category, run.token_count, len(run.categories), permutations=settings.permutations,
                       bootstraps=settings.bootstraps, strata=settings.strata, seed=settings.seed)  # fmt: skip
    results = [_evaluate_group(sets, group, settings.rho, draws) for group in sets.groups.values()]
    _write_tables(output, sets, results)
    return write_summary(output, {
        "kind": "evaluate",
        **run.record(),
        "set": sets.record(),
        "settings": asdict(settings),
        "categories": run.categories,
        "instructions": sets.category_sizes,
        "tables": [table.name for table in TABLES["evaluate"]],
        "groups": {result.group.name: _group_summary(sets, result) for result in results},
    })  # fmt: skip


def category_table(overlap: Float64[np.ndarray, "I I"], chance: Float64[np.ndarray, "I I"], draws: Draws
                   ) -> dict[str, np.ndarray]:  # fmt: skip
    """The category table of one measure: generality on the diagonal, overlap between categories off it.

    Args:
      overlap: of all pairs of instructions.
      chance: its chance level.
      draws: the draws of the run.

    Returns:
      The `[C, C]` table of each value of a cell, by its column of `OVERLAP`; NaN in the cell of a category with fewer
      than two instructions.
    """
    value = cell_means(overlap, draws.observed)[0]
    table = {"value": value, "chance": cell_means(chance, draws.observed)[0]}
    for suffix, weights in (("", draws.shuffled), ("_length", draws.shuffled_by_length)):
        shuffled = cell_means(overlap, weights)
        p_value = two_sided_p(value, shuffled)
        table |= {f"null_mean{suffix}": mean_of_draws(shuffled), f"p_value{suffix}": p_value,
                  f"q_value{suffix}": _symmetric_q(p_value)}  # fmt: skip
    low, high = interval(cell_means(overlap, draws.resampled))
    return table | {"ci_low": low, "ci_high": high}


def _symmetric_q(p_value: Float64[np.ndarray, "C C"]) -> Float64[np.ndarray, "C C"]:
    rows, columns = np.triu_indices(len(p_value))
    table = np.empty_like(p_value)
    table[rows, columns] = table[columns, rows] = benjamini_hochberg(p_value[rows, columns])
    return table


def _evaluate_group(sets: Sets, group: Group, rho: float, draws: Draws) -> GroupResult:
    layers, layer_units = len(group.layers), group.unit_count // len(group.layers)
    with progress(f"evaluate {group.name}", 2 * layers, "layers") as bar:
        found = all_intersections(sets, group.name, bar.advance)
        cells = {measure: category_table(overlap, chance, draws)
                 for measure, (overlap, chance) in all_overlaps(found, layer_units).items()}  # fmt: skip
        core = core_sets(sets, group.name, rho)
        return GroupResult(group, cells, core, found.first, uniqueness(sets, group.name, rho, core, draws, bar.advance))


def _group_summary(sets: Sets, result: GroupResult) -> dict[str, Any]:
    found = result.uniqueness
    size, tokens = sets.size(result.group.name), sets.run.token_count
    return {
        "units": result.group.unit_count,
        "layers": result.group.layers,
        "mean_set_size": float(size.mean()),
        "spearman_size_token_count": spearman(size, tokens),
        "overlap": result.cells,
        "core_units": found.core_units,
        "unique_units": found.unique_units,
        "general_units": found.general_units,
        "uniqueness": {"value": found.value, "null_mean_length": found.null_mean, "p_value_length": found.p_value,
                       "q_value_length": found.q_value, "ci_low": found.low, "ci_high": found.high},
    }  # fmt: skip


def _write_tables(output: Path, sets: Sets, results: Sequence[GroupResult]) -> None:
    rows_of = {
        OVERLAP: _overlap_rows,
        UNIQUENESS: _uniqueness_rows,
        COMBINATIONS: _combination_rows,
        DEPTH: _depth_rows,
        INSTRUCTIONS: _instruction_rows,
        CORE_UNITS: _core_unit_rows,
    }
    for table, rows in rows_of.items():
        write_table(output, table, chain.from_iterable(rows(sets, result) for result in results))


def _overlap_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    categories = sets.run.categories
    labels = np.eye(len(categories), dtype=np.uint16)[sets.run.category]
    ordered_pairs = pair_counts(labels[None])[0]
    for measure, table in result.cells.items():
        for a, b in zip(*np.triu_indices(len(categories)), strict=True):
            pairs = int(ordered_pairs[a, b]) // (2 if a == b else 1)
            values = [table[name][a, b] for name in OVERLAP.names if name in table]
            yield result.group.name, measure, categories[a], categories[b], *values, pairs


def _uniqueness_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    found = result.uniqueness
    columns = (found.core_units, found.unique_units, found.value, found.null_mean, found.p_value, found.q_value,
               found.low, found.high)  # fmt: skip
    for category, *values in zip(sets.run.categories, *columns, strict=True):
        yield result.group.name, category, *values


def _combination_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    for combination, units in combinations(result.core):
        names = "+".join(sets.run.categories[category] for category in combination)
        yield result.group.name, names, len(combination), units


def _depth_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    depth = relative_depth(sets.run, result.group)
    units = result.core.sum(axis=2)
    observed = np.eye(len(units), dtype=np.uint16)[sets.run.category]
    sizes = category_means(result.layer_sizes.astype(np.float64), observed[None])[0]
    for c, category in enumerate(sets.run.categories):
        for at, layer in enumerate(result.group.layers):
            share = units[c, at] / result.core.shape[2]
            yield result.group.name, category, layer, depth[at], units[c, at], share, sizes[c, at]


def _instruction_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    size, cut = sets.size(result.group.name), sets.cut(result.group.name)
    for i, entry in enumerate(sets.run.instructions):
        category = sets.run.categories[sets.run.category[i]]
        yield result.group.name, entry["id"], category, sets.run.token_count[i], size[i], cut[i]


def _core_unit_rows(sets: Sets, result: GroupResult) -> Iterator[Sequence[object]]:
    group = result.group
    membership = sets.membership(group.name)
    for c, (category, members) in enumerate(zip(sets.run.categories, sets.category_sizes, strict=True)):
        units = np.nonzero(result.core[c].reshape(group.shape))
        layers = np.asarray(group.layers)[units[0]].tolist()
        blank = [""] * len(layers)
        experts = units[group.dimension_names.index("expert")].tolist() if "expert" in group.dims else blank
        neurons = blank if group.name == EXPERT_GROUP else units[-1].tolist()
        shares = (membership[c][units] / max(members, 1)).tolist()
        for layer, expert, neuron, share in zip(layers, experts, neurons, shares, strict=True):
            yield group.name, layer, expert, neuron, category, share
