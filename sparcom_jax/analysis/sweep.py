"""How cores depend on where S(i) is cut: generality and uniqueness over a range of epsilon, or of thresholds.

Axes: C categories, U units.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from sparcom_jax.analysis.settings import SweepSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.identify.select import cut_counts
from sparcom_jax.identify.selection import Selection, share_of
from sparcom_jax.progress import progress, say
from sparcom_jax.resampling import share
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import SWEEP, TABLES
from sparcom_jax.select.cores import in_every_core, in_one_core
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import required_members
from sparcom_jax.units.groups import EXPERT_GROUP


def sweep(
    run: Run | str | Path,
    output: str | Path,
    selection: Selection = Selection(),
    settings: SweepSettings = SweepSettings(),
) -> dict[str, Any]:
    """Cuts the neurons of every instruction at each of several values, and says what the cores are then.

    It reads the counts once for every value and stores no sets. With the selector `threshold` it is a sweep over the
    paper's epsilon, an absolute threshold of the frequency, whose value is not known.

    Args:
      run: a complete run that keeps counts, or its path or URL.
      output: directory of `sweep.csv` and of `summary.json`, written last.
      selection: how S(i) is chosen, but for the value: epsilon, or with the selector `threshold` the threshold.
      settings: the values, and what a core is.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete or keeps sets, or a setting is out of range.
    """
    run, output = as_run(run), Path(output)
    settings.check()
    swept = "threshold" if selection.selector == "threshold" else "epsilon"
    selections = [replace(selection, threshold=value) if swept == "threshold" else replace(selection, epsilon=value)
                  for value in settings.values_of(selection.selector)]  # fmt: skip
    for one in selections:
        one.check()
    run.require_complete()
    if run.selection is not None:
        raise InputError(f"{run.location}: keeps sets that were cut once; a sweep needs capture.keep=counts")
    start_results(output, "sweep")
    neurons = {name: group for name, group in run.groups.items() if name != EXPERT_GROUP}
    rates = mean_rates(run, neurons) if selection.selector == "excess" else None
    rows: list[Sequence[object]] = []
    work = [(one, groups) for one in selections for groups in one.cut_together(list(neurons.values()))]
    with progress("sweep", len(work) * len(run.category), "instruction cuts") as bar:
        for one, groups in work:
            members = [np.zeros((len(run.categories), group.unit_count), np.int64) for group in groups]
            sizes = [np.zeros(len(run.category), np.int64) for _ in groups]
            for row, masks, _ in cut_counts(run, one, groups, share_of(one.epsilon, groups), rates):
                for held, size, mask in zip(members, sizes, masks, strict=True):
                    held[run.category[row]] += mask
                    size[row] = np.count_nonzero(mask)
                bar.advance()
            for group, held, size in zip(groups, members, sizes, strict=True):
                core = held >= _required(run, settings.rho)[:, None]
                rows += _rows(run, group.name, getattr(one, swept), core, size)
    write_table(output, SWEEP, rows)
    say(f"sweep over {swept}: {', '.join(f'{getattr(one, swept):g}' for one in selections)}")
    told = {name: value for name, value in asdict(selection).items() if name not in ("epsilon", "threshold")}
    return write_summary(output, {
        "kind": "sweep",
        **run.record(),
        "counts": {"name": f"by {selection.selector}", "run": run.address, **told,
                   "digest": run.manifest.identity_digest},
        "settings": asdict(settings),
        "swept": swept,
        "categories": run.categories,
        "tables": [table.name for table in TABLES["sweep"]],
        "groups": {name: {"units": group.unit_count, "layers": group.layers} for name, group in neurons.items()},
    })  # fmt: skip


def _required(run: Run, rho: float) -> Int64[np.ndarray, "C"]:
    return required_members(np.bincount(run.category, minlength=len(run.categories)), rho)


def _rows(
    run: Run, group: str, value: float, core: Bool[np.ndarray, "C U"], size: Int64[np.ndarray, "I"]
) -> Iterator[Sequence[object]]:
    core_units, unique = core.sum(axis=1), in_one_core(core).sum(axis=1)
    alone = len(core) == 1
    general = 0 if alone else int(in_every_core(core).sum())
    uniqueness = np.full(1, np.nan) if alone else share(unique, core_units)
    general_share = share(np.full(len(core), general), core_units)
    for c, category in enumerate(run.categories):
        mean_size = size[run.category == c].mean() if (run.category == c).any() else float("nan")
        yield (group, value, category, mean_size, mean_size / core.shape[1], core_units[c], unique[c], uniqueness[c],
               general_share[c])  # fmt: skip
