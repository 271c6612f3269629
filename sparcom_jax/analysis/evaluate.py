"""Generality and uniqueness of the units of every category, against chance, shuffled labels and length."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis.cautions import FEW_TOKENS, cautions, duplicates, odd_sizes
from sparcom_jax.analysis.contrasts import Shuffles, shuffle_pairs
from sparcom_jax.analysis.cores import combinations
from sparcom_jax.analysis.correlation import spearman
from sparcom_jax.analysis.depth import relative_depth
from sparcom_jax.analysis.generality import GroupResult, measure_group
from sparcom_jax.analysis.routing import distance_rows, routing, share_rows
from sparcom_jax.analysis.settings import EvaluateSettings
from sparcom_jax.progress import say
from sparcom_jax.resampling import (
    Shuffling,
    benjamini_hochberg,
    category_means,
    make_draws,
    pair_counts,
    share,
)
from sparcom_jax.results.columns import Table
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import (
    COMBINATIONS,
    CONTRASTS,
    CORE_UNITS,
    DEPTH,
    INSTRUCTIONS,
    OVERLAP,
    ROUTING,
    ROUTING_DISTANCE,
    TABLES,
    UNIQUENESS,
)
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import DEFAULT_SET, Sets, open_sets
from sparcom_jax.units.groups import EXPERT_GROUP


def evaluate(
    run: Run | str | Path,
    output: str | Path,
    settings: EvaluateSettings = EvaluateSettings(),
    *,
    set_name: str = DEFAULT_SET,
) -> dict[str, Any]:
    """Measures generality and uniqueness of every category in every group of units, and writes the tables.

    Uniqueness rests on the same draws as the overlaps; it costs
    2 C I U (permutations + bootstraps) operations, so fewer draws are the way to a quick look at a large model.

    Args:
      run: a complete run with sets, or its path or URL.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.
      settings: how to measure.
      set_name: which sets.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete or has no such set, the set of an instruction is empty, or a setting is out of
        range.
    """
    run, output = as_run(run), Path(output)
    settings.check()
    run.require_complete()
    sets = open_sets(run, set_name)
    sets.require_units()
    start_results(output, "evaluate")
    labels, tokens, categories = run.category, run.token_count, len(run.categories)
    shuffling = Shuffling(settings.permutations, settings.stratum_rows, settings.seed)
    draws = make_draws(labels, tokens, categories, shuffling, bootstraps=settings.bootstraps)
    pairs = shuffle_pairs(labels, tokens, categories, shuffling)
    odd = {name: odd_sizes(sets.size(name)) for name in sets.groups}
    duplicate_of = duplicates(run)
    told = list(cautions(run, duplicate_of, odd, _untestable(run, pairs), _smallest_p(pairs)))
    for caution in told:
        say(caution)
    results = [measure_group(sets, group, settings.rho, draws, pairs, odd[name])
               for name, group in sets.groups.items()]  # fmt: skip
    _write_tables(output, sets, results, pairs, duplicate_of)
    routed = routing(run, draws)
    write_table(output, ROUTING, share_rows(run, routed) if routed else [])
    write_table(output, ROUTING_DISTANCE, distance_rows(run, routed) if routed else [])
    return write_summary(output, {
        "kind": "evaluate",
        **run.record(),
        "set": sets.record(),
        "settings": asdict(settings),
        "categories": run.categories,
        "instructions": sets.category_sizes,
        "cautions": told,
        "tables": [table.name for table in TABLES["evaluate"]],
        "groups": {result.group.name: _group_summary(sets, result) for result in results},
    })  # fmt: skip


def _untestable(run: Run, pairs: Sequence[Shuffles]) -> dict[tuple[str, str], str]:
    """Of the pairs of categories that cannot be tested, the reason."""
    sizes, found = np.bincount(run.category, minlength=len(run.categories)), {}
    for one in pairs:
        first, second = (run.categories[category] for category in one.pair)
        if min(sizes[[*one.pair]]) < 2:
            found[first, second] = "one has fewer than two instructions"
        elif not one.comparable:
            found[first, second] = "no instruction of one is as long as one of the other"
    return found


def _smallest_p(pairs: Sequence[Shuffles]) -> float:
    return min((one.smallest_p for one in pairs), default=1.0)


def _group_summary(sets: Sets, result: GroupResult) -> dict[str, Any]:
    found = result.uniqueness
    size, tokens = sets.size(result.group.name), sets.run.token_count
    return {
        "units": result.group.unit_count,
        "layers": result.group.layers,
        "mean_set_size": float(size.mean()),
        "spearman_size_token_count": spearman(size, tokens),
        "overlap_explained_by": result.explained,
        "overlap": result.cells,
        "core_units": found.core_units,
        "unique_units": found.unique_units,
        "general_units": found.general_units,
        "uniqueness": {"value": found.value, "null_mean": found.null_mean,
                       "null_unique_units": found.null_unique_units, "p_value": found.p_value,
                       "q_value": found.q_value, "ci_low": found.low, "ci_high": found.high},
    }  # fmt: skip


def _write_tables(
    output: Path, sets: Sets, results: Sequence[GroupResult], pairs: Sequence[Shuffles], duplicate_of: Sequence[str]
) -> None:
    rows_of: dict[Table, Callable[[GroupResult], Iterator[Sequence[object]]]] = {
        OVERLAP: lambda result: _overlap_rows(sets, result),
        CONTRASTS: lambda result: _contrast_rows(sets, result, pairs),
        UNIQUENESS: lambda result: _uniqueness_rows(sets, result),
        COMBINATIONS: lambda result: _combination_rows(sets, result),
        DEPTH: lambda result: _depth_rows(sets, result),
        INSTRUCTIONS: lambda result: _instruction_rows(sets, result, duplicate_of),
        CORE_UNITS: lambda result: _core_unit_rows(sets, result),
    }
    for table, rows in rows_of.items():
        write_table(output, table, chain.from_iterable(map(rows, results)))


def _contrast_rows(sets: Sets, result: GroupResult, pairs: Sequence[Shuffles]) -> Iterator[Sequence[object]]:
    categories = sets.run.categories
    for measure, found in result.contrasts.items():
        q_values = benjamini_hochberg(np.asarray([one.p_value for one in found], np.float64))
        for shuffles, one, q_value in zip(pairs, found, q_values, strict=True):
            first, second = (categories[category] for category in shuffles.pair)
            yield (result.group.name, measure, first, second, one.value, one.low, one.high, one.null_mean, one.p_value,
                   q_value, shuffles.smallest_p, len(shuffles.rows), shuffles.comparable)  # fmt: skip


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
    general = share(np.full(len(found.core_units), found.general_units), found.core_units)
    columns = (sets.category_sizes, found.core_units, found.unique_units, found.value, found.low, found.high,
               found.null_mean, found.null_unique_units, found.p_value, found.q_value, general)  # fmt: skip
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


def _instruction_rows(sets: Sets, result: GroupResult, duplicate_of: Sequence[str]) -> Iterator[Sequence[object]]:
    run, size, cut = sets.run, sets.size(result.group.name), sets.cut(result.group.name)
    for i, entry in enumerate(run.instructions):
        tokens = int(run.token_count[i])
        yield (result.group.name, entry["id"], run.categories[run.category[i]], tokens, size[i], cut[i],
               int(tokens < FEW_TOKENS), int(result.odd[i]), duplicate_of[i])  # fmt: skip


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
        for layer, expert, neuron, held in zip(layers, experts, neurons, shares, strict=True):
            yield group.name, layer, expert, neuron, category, held
