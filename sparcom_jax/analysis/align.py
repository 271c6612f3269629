"""Whether the units that are active most are those that matter: frequency beside attribution, layer by layer.

Axis legend: A instructions that are attributed, C categories, U units of a layer.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from sparcom_jax.analysis.correlation import spearman
from sparcom_jax.analysis.settings import AlignSettings
from sparcom_jax.progress import progress
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.summary import ALIGNED
from sparcom_jax.results.tables import ALIGNMENT, TABLES
from sparcom_jax.select.attribution import less_others
from sparcom_jax.shares import least_whole
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.attribution import Attribution, open_attribution
from sparcom_jax.store.run import Run, as_run

Row = dict[str, Any]


def align(run: Run | str | Path, output: str | Path, settings: AlignSettings = AlignSettings()) -> dict[str, Any]:
    """Compares the frequency of units with their attribution, by group, layer and category.

    Args:
      run: a complete run that keeps counts and has an attribution, or its path or URL.
      output: directory of the table (docs/tables.md lists its columns) and of `summary.json`, written last.
      settings: which attribution, and how many units at the top are compared.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete, keeps sets, or has no such attribution.
    """
    run, output = as_run(run), Path(output)
    settings.check()
    run.require_complete()
    attribution = open_attribution(run, settings.method)
    for group in attribution.groups:
        run.count(group)  # refuses a run that keeps sets before anything is written
    start_results(output, "align")
    rows = list(_rows(run, attribution, settings.epsilon))
    write_table(output, ALIGNMENT, [list(row.values()) for row in rows])
    return write_summary(
        output,
        {
            "kind": "align",
            **run.record(),
            "attribution": attribution.record(),
            "settings": asdict(settings),
            "categories": run.categories,
            "instructions": np.bincount(attribution.category, minlength=len(run.categories)),
            "tables": [table.name for table in TABLES["align"]],
            "groups": {name: _summary(run, name, [row for row in rows if row["group"] == name])
                       for name in attribution.groups},
        },
    )  # fmt: skip


def agreement(first: Float[np.ndarray, "U"], second: Float[np.ndarray, "U"], k: int) -> tuple[float, float]:
    """Spearman correlation of two quantities of the same units, and the share that their k highest have in common.

    Units that tie come by index. NaN where a quantity is not defined.
    """
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        return float("nan"), float("nan")
    highest = [set(np.argsort(-values, kind="stable")[:k].tolist()) for values in (first, second)]
    return spearman(first, second), len(highest[0] & highest[1]) / k


def _rows(run: Run, attribution: Attribution, epsilon: float) -> Iterator[Row]:
    """Rows of `ALIGNMENT`."""
    depth = max(run.manifest.model.num_layers - 1, 1)
    with progress("align", sum(len(group.layers) for group in attribution.groups.values()), "layers") as bar:
        for name, group in attribution.groups.items():
            frequency = run.frequency(name)
            for index, layer in enumerate(group.layers):
                p = np.asarray(finished(frequency[:, index].read(), run.location))[attribution.rows]
                both = p.reshape(len(p), -1), attribution.layer(name, index)
                means = [_means(attribution, values) for values in both]
                units = means[0].shape[1]
                k = least_whole(epsilon, units)
                beyond = [less_others(one) for one in means]
                for category, title in enumerate(run.categories):
                    whole = agreement(means[0][category], means[1][category], k)
                    own = agreement(beyond[0][category], beyond[1][category], k)
                    of_layer = name, title, layer, layer / depth, units
                    yield ALIGNMENT.record((*of_layer, whole[0], own[0], k, whole[1], own[1], k / units))
                bar.advance()


def _means(attribution: Attribution, values: Float[np.ndarray, "A U"]) -> Float[np.ndarray, "C U"]:
    """Means over the attributed instructions of each category; NaN of one without any."""
    means = np.full((len(attribution.run.categories), values.shape[1]), np.nan)
    for category in np.unique(attribution.category):
        means[category] = values[attribution.category == category].mean(axis=0, dtype=np.float64)
    return means


def _summary(run: Run, name: str, rows: list[Row]) -> dict[str, Any]:
    """The means over the layers, of each category."""

    def mean(field: str, category: str) -> float:
        values = [row[field] for row in rows if row["category"] == category and np.isfinite(row[field])]
        return float(np.mean(values)) if values else float("nan")

    return {
        "units": run.groups[name].unit_count,
        "layers": run.groups[name].layers,
        "chance": float(np.mean([row["chance"] for row in rows])),
        **{field: [mean(field, category) for category in run.categories] for field in ALIGNED},
    }
