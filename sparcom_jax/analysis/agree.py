"""How far selectors agree on the units of a category.

Axes: C categories, U units of a target.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis.correlation import spearman
from sparcom_jax.analysis.overlap import jaccard
from sparcom_jax.analysis.settings import OF_SELECT, AgreeSettings
from sparcom_jax.progress import progress
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import AGREEMENT, TABLES
from sparcom_jax.select.flat import flat
from sparcom_jax.select.select import choose
from sparcom_jax.select.settings import SELECTORS, SelectSettings
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import DEFAULT_SET
from sparcom_jax.units.groups import TARGETS
from sparcom_jax.units.unit_set import UnitSet


def agree(
    run: Run | str | Path,
    output: str | Path,
    selection: SelectSettings = SelectSettings(),
    settings: AgreeSettings = AgreeSettings(),
    *,
    set_name: str = DEFAULT_SET,
) -> dict[str, Any]:
    """Chooses the units of every category by several selectors, alike otherwise, and compares them pair by pair.

    Args:
      run: a complete run, or its path or URL.
      output: directory of `agreement.csv` and of `summary.json`, written last.
      selection: how many units are chosen, and by which instructions (`OF_SELECT`); what else it says is for its own
        selector. Nothing is stored beside the run.
      settings: the selectors.
      set_name: the sets of selectors that read cores.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: as `select`, or there are fewer than two selectors.
    """
    run, output = as_run(run), Path(output)
    settings.check()
    chosen = SelectSettings(settings.selectors, **{field: getattr(selection, field) for field in OF_SELECT})
    made = choose(run, chosen, set_name)
    start_results(output, "agree")
    pairs = list(itertools.combinations(made, 2))
    rows: list[Sequence[object]] = []
    with progress("agree", len(pairs), "pairs of selectors") as bar:
        for first, second in pairs:
            rows += _rows(first, second)
            bar.advance()
    write_table(output, AGREEMENT, rows)
    return write_summary(output, {
        "kind": "agree",
        **run.record(),
        "counts": {"name": f"by {settings.selectors}", "run": run.address, "digest": run.manifest.identity_digest},
        "cores_of": set_name if any("rho" in SELECTORS[selector] for selector in chosen.selectors) else None,
        "settings": asdict(chosen),
        "categories": run.categories,
        "selectors": chosen.selectors,
        "tables": [table.name for table in TABLES["agree"]],
    })  # fmt: skip


def _rows(first: UnitSet, second: UnitSet) -> Iterator[Sequence[object]]:
    for target, groups in TARGETS.items():
        shared = [group for group in groups if group in first.groups and group in second.groups]
        if not shared:
            continue
        masks = [flat(_of(units.mask, shared)) for units in (first, second)]
        scores = [flat(_of(units.score, shared)) for units in (first, second)]
        common = np.count_nonzero(masks[0] & masks[1], axis=1)
        sizes = [np.count_nonzero(mask, axis=1) for mask in masks]
        # Random sets with as many units in every layer: hypergeometric, layer by layer.
        expected = sum(
            (first.layer_counts(group) * second.layer_counts(group)).sum(axis=1)
            / (first.groups[group].unit_count / len(first.groups[group].layers))
            for group in shared
        )
        values = (jaccard(common, *sizes), jaccard(np.asarray(expected), *sizes))
        for c, category in enumerate(first.categories):
            correlation = spearman(scores[0][c], scores[1][c])
            yield (target, first.selector, second.selector, category, sizes[0][c], sizes[1][c], common[c],
                   *(value[c] for value in values), correlation)  # fmt: skip


def _of(arrays: Mapping[str, np.ndarray], groups: Sequence[str]) -> dict[str, np.ndarray]:
    return {group: arrays[group] for group in groups}
