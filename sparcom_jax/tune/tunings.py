"""Trainings of one model compared: gain, forgetting, and which units changed.

Axis legend: S seeds, I held-out instructions, C categories, R bootstrap samples.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from sparcom_jax.causal.controls import frequency_bins, random_units
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.progress import progress
from sparcom_jax.resampling import LEAST_FOR_INTERVAL, interval, two_sided_p
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.reader import Result
from sparcom_jax.results.tunings import TUNED_UNITS, TUNING_CHANGES, TUNINGS, TUNINGS_TABLES
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.tune.outcomes import best_trainings, held_out_rows, rows_of, runs_of
from sparcom_jax.tune.settings import TuningsSettings
from sparcom_jax.units.file import read_safetensors

Masks = Mapping[str, Bool[np.ndarray, "..."]]


@dataclass(frozen=True, eq=False)
class Training:
    """All seeds of a training, with the learning rate that was the best.

    Attributes:
      results: what `finetune` wrote of each, by ascending seed.
      change: what it added to the loss of every held-out instruction.
    """

    results: Sequence[Result]
    change: Float64[np.ndarray, "S I"]

    @property
    def summary(self) -> dict[str, Any]:
        """What the first seed's results say."""
        return self.results[0].summary


def tunings(
    run: Run | str | Path,
    trained: str | Path,
    output: str | Path,
    settings: TuningsSettings = TuningsSettings(),
    *,
    tuned_runs: Sequence[Run | str | Path] = (),
) -> dict[str, Any]:
    """Compares trainings of one model on the same held-out instructions.

    What `finetune` wrote below a directory is put together by what was trained. Where learning rates differ, that one
    is taken whose validation loss is the lowest with the smallest seed; results with others are left aside. The
    training of all parameters, if there is one, is what the gain of others is measured by.

    Args:
      run: the run of the model as it was, with the instructions that were learnt from and held out.
      trained: searched for the results of `finetune`.
      output: directory of the tables and of `summary.json`, written last.
      settings: bootstraps and random sets.
      tuned_runs: runs of tuned models, of the same instructions, by which it is seen which units changed.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: there are no results, or they are malformed, of other models, categories or instructions than others,
        or made with other settings; or a run is of none of their models, or captured otherwise than the one before.
    """
    run, trained, output = as_run(run), Path(trained), Path(output)
    settings.check()
    run.require_complete()
    found = best_trainings(trained)
    rows = held_out_rows(found, run)
    of = {name: Training(results, _changes(results)) for name, results in found.items()}
    runs = runs_of([as_run(one) for one in tuned_runs], found, run)
    first = next(iter(of.values())).summary
    start_results(output, "tunings")
    category = np.asarray([run.categories.index(row["category"]) for row in rows])
    learnt = np.asarray(first["learnt"]) > 0
    before = np.asarray([row["before"] for row in rows])
    drawn = _draws(category, {name: len(one.results) for name, one in of.items()}, settings)
    means = {name: _means(one.change, category, len(learnt), drawn[name]) for name, one in of.items()}
    whole = next((name for name, one in of.items() if one.summary["train"]["kind"] == "all"), None)
    write_table(output, TUNINGS, [_row(name, one, means, learnt, whole) for name, one in of.items()])
    write_table(output, TUNING_CHANGES, _by_category(run.categories, category, learnt, before, means))
    write_table(output, TUNED_UNITS, list(_units(run, runs, _masks(found, run), learnt, settings)))
    return write_summary(output, {
        "kind": "tunings",
        **run.record(),
        "counts": {"name": "counts", "run": run.address, "digest": run.manifest.identity_digest},
        "settings": asdict(settings),
        "trained": str(trained),
        "tuned": [one.address for one in runs.values()],
        "tune": {name: one.summary["settings"] for name, one in of.items()},
        "categories": run.categories,
        "learnt": first["learnt"],
        "held_out": int(all(result.summary["held_out"] for results in found.values() for result in results)),
        "tables": [table.name for table in TUNINGS_TABLES],
    })  # fmt: skip


def _masks(found: Mapping[str, Sequence[Result]], run: Run) -> dict[str, Masks]:
    """The neurons of the trainings that trained some."""
    files = {name: results[0].directory / "trained.safetensors" for name, results in found.items()}
    masks = {name: {group: mask[0] for group, mask in read_safetensors(path).mask.items()}
             for name, path in files.items() if path.exists()}  # fmt: skip
    return {name: of for name, of in masks.items() if of.keys() <= run.groups.keys()}


def _changes(results: Sequence[Result]) -> Float64[np.ndarray, "S I"]:
    return np.asarray([
        [row["after"] - row["before"] for row in rows_of(result)] for result in results
    ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Draws:
    """Bootstrap samples: the first is what was measured.

    Attributes:
      instructions: how often each counts.
      seeds: how often each counts.
    """

    instructions: Float64[np.ndarray, "R I"]
    seeds: Float64[np.ndarray, "R S"]


def _draws(category: np.ndarray, seeds: Mapping[str, int], settings: TuningsSettings) -> dict[str, _Draws]:
    """Instructions are drawn within their category, and alike for all trainings; seeds of each for themselves."""
    random = np.random.default_rng(settings.seed)
    instructions = np.ones((1 + settings.bootstraps, len(category)))
    for number in np.unique(category):
        own = np.flatnonzero(category == number)
        instructions[1:, own] = random.multinomial(len(own), np.full(len(own), 1 / len(own)), settings.bootstraps)
    found = {}
    for name, count in seeds.items():
        of = np.ones((1 + settings.bootstraps, count))
        of[1:] = random.multinomial(count, np.full(count, 1 / count), settings.bootstraps)
        found[name] = _Draws(instructions, of)
    return found


def _means(
    change: Float64[np.ndarray, "S I"], category: np.ndarray, categories: int, draws: _Draws
) -> Float64[np.ndarray, "R C"]:
    """Mean change of each category over its instructions and the seeds, in every sample.

    NaN where it has none; where they are too few for an interval, in all samples but the first.
    """
    over_seeds = draws.seeds @ change / draws.seeds.sum(axis=1, keepdims=True)
    found = np.full((len(over_seeds), categories), np.nan)
    for number in np.unique(category):
        own = category == number
        weight = draws.instructions[:, own]
        found[:, number] = (weight * over_seeds[:, own]).sum(axis=1) / weight.sum(axis=1)
        if np.count_nonzero(own) < LEAST_FOR_INTERVAL:
            found[1:, number] = np.nan
    return found


def _row(
    name: str, training: Training, means: Mapping[str, Float64[np.ndarray, "R C"]], learnt: Bool[np.ndarray, "C"],
    whole: str | None,
) -> Sequence[object]:  # fmt: skip
    summary, parameters = training.summary, training.summary["train"]["parameters"]
    gain, forgetting = -_over(means[name], learnt), _over(means[name], ~learnt)
    return (name, parameters, summary["settings"]["learning_rate"], len(training.results),
            *_with_ends(gain), *_with_ends(forgetting), *_with_ends(_share(gain, means, learnt, whole)),
            1e6 * gain[0] / parameters)  # fmt: skip


def _over(means: Float64[np.ndarray, "R C"], which: Bool[np.ndarray, "C"]) -> Float64[np.ndarray, "R"]:
    """The mean over those of the categories that have instructions."""
    which = which & np.isfinite(means[0])
    return means[:, which].mean(axis=1) if which.any() else np.full(len(means), np.nan)


def _share(
    gain: Float64[np.ndarray, "R"], means: Mapping[str, Float64[np.ndarray, "R C"]], learnt: Bool[np.ndarray, "C"],
    whole: str | None,
) -> Float64[np.ndarray, "R"]:  # fmt: skip
    """Of the gain of training all parameters, where that surely is one: else a ratio would say nothing."""
    of_all = None if whole is None else -_over(means[whole], learnt)
    if of_all is None or not _with_ends(of_all)[1] > 0:
        return np.full(len(gain), np.nan)
    return gain / np.where(of_all > 0, of_all, np.nan)


def _with_ends(values: Float64[np.ndarray, "R"]) -> tuple[float, float, float]:
    low, high = interval(values[1:, None])
    return float(values[0]), float(low[0]), float(high[0])


def _by_category(
    categories: Sequence[str], category: np.ndarray, learnt: Bool[np.ndarray, "C"], before: Float64[np.ndarray, "I"],
    means: Mapping[str, Float64[np.ndarray, "R C"]],
) -> Iterator[Sequence[object]]:  # fmt: skip
    for name, values in means.items():
        for number in np.unique(category):
            own = category == number
            ends = _with_ends(values[:, number])
            yield (name, categories[number], int(learnt[number]), int(own.sum()), before[own].mean(), *ends)


def _units(
    base: Run, runs: Mapping[str, Run], masks: Mapping[str, Masks], learnt: Bool[np.ndarray, "C"],
    settings: TuningsSettings,
) -> Iterator[Sequence[object]]:  # fmt: skip
    """Whether tuning changed the units of every training more than others of their layers, in every tuned model."""
    if not masks or not runs:
        return
    groups = {name: base.groups[name] for name in dict.fromkeys(group for of in masks.values() for group in of)}
    bins = frequency_bins(mean_rates(base, groups))
    rows = np.flatnonzero(learnt[base.category])
    with progress("tuned units", len(runs) * len(masks), "sets") as bar:
        for training, run in runs.items():
            drift = {name: np.abs(_frequency(run, name, rows) - _frequency(base, name, rows)) for name in groups}
            ranks = {name: _ranks(of) for name, of in drift.items()}
            for units, mask in masks.items():
                random = np.random.default_rng([settings.seed, list(masks).index(units)])
                drawn = [_mean(ranks, one) for one in random_units(mask, bins, settings.draws, random)]
                own = _mean(ranks, mask)
                low, high = interval(np.asarray(drawn)[:, None])
                p = two_sided_p(np.asarray([own]), np.asarray(drawn)[:, None])[0]
                count = int(sum(np.count_nonzero(one) for one in mask.values()))
                yield (training, units, int(training == units), count, _mean(drift, mask), own, low[0], high[0], p)
                bar.advance()


def _frequency(run: Run, group: str, rows: np.ndarray) -> Float64[np.ndarray, "*units"]:
    """Mean p over some instructions."""
    total = np.zeros(run.groups[group].shape)
    for row in rows.tolist():
        counts = finished(run.count(group)[row].read(), run.location)
        total += counts.reshape(total.shape) / float(run.token_count[row])
    return total / len(rows)


def _ranks(drift: Float64[np.ndarray, "L ..."]) -> Float64[np.ndarray, "L ..."]:
    """The share of the other units of its layer that changed less than a unit, those that changed as much by half."""
    flat = drift.reshape(len(drift), -1)
    ranks = np.empty_like(flat)
    for layer, values in enumerate(flat):
        ordered = np.sort(values)
        below = np.searchsorted(ordered, values, "left")
        level = np.searchsorted(ordered, values, "right") - below - 1
        ranks[layer] = (below + level / 2) / max(len(values) - 1, 1)
    return ranks.reshape(drift.shape)


def _mean(values: Mapping[str, Float64[np.ndarray, "..."]], mask: Masks) -> float:
    return float(np.mean(np.concatenate([values[name][one] for name, one in mask.items()])))
