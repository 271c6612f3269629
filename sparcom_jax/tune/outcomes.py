"""What trainings wrote: found, and required to be comparable with each other.

Trainings of one name are those of what `--train` says; a name has one learning rate, and a result for each seed.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.convert.model_dir import open_model
from sparcom_jax.errors import InputError
from sparcom_jax.results.reader import Result, Row, find_summaries, read_result
from sparcom_jax.results.tuning import EVALUATION_ROWS
from sparcom_jax.stages import difference
from sparcom_jax.store.run import Run

PART = "held_out"
"""The instructions that trainings are compared on."""
ALIKE = ("template", "half_seed", "half")
"""Settings that decide what the loss of a held-out instruction is: all trainings have the same."""
FREE = ("seed", "learning_rate", "keep_model")
"""Settings in which the results of one training may differ."""


def best_trainings(trained: Path) -> dict[str, list[Result]]:
    """What `finetune` wrote below a directory, by what was trained, with the learning rate that is the best.

    Raises:
      InputError: there is nothing, a rate cannot be chosen, or results differ in what must be alike.
    """
    found: dict[str, list[Result]] = {}
    if not trained.is_dir():
        raise InputError(f"{trained}: no such directory")
    for place, summary in find_summaries(trained):
        if summary["kind"] == "finetune":
            result = read_result(trained / place, [EVALUATION_ROWS])
            found.setdefault(result.summary["train"]["name"], []).append(result)
    if not found:
        raise InputError(f"{trained}: no results of finetune")
    _require_alike(found)
    return {name: _with_the_best_rate(sorted(of, key=_seed)) for name, of in found.items()}


def _seed(result: Result) -> int:
    return int(result.summary["settings"]["seed"])


def _with_the_best_rate(results: Sequence[Result]) -> list[Result]:
    def rate(result: Result) -> float:
        return float(result.summary["settings"]["learning_rate"])

    first = [result for result in results if _seed(result) == _seed(results[0])]
    best = rate(first[0] if len(first) == 1 else min(first, key=validation_loss))
    kept = [result for result in results if rate(result) == best]
    for one, other in itertools.pairwise(kept):
        if _seed(one) == _seed(other):
            raise InputError(f"{one.directory} and {other.directory}: {one.summary['train']['name']} was trained twice "
                             f"with seed {_seed(one)} and learning_rate {best:g}")  # fmt: skip
    return kept


def validation_loss(result: Result) -> float:
    """The mean loss of the instructions that were set aside, by the model that was kept.

    Raises:
      InputError: none were.
    """
    losses = [row["after"] for row in result.tables[EVALUATION_ROWS] if row["part"] == "validation"]
    if not losses:
        raise InputError(f"{result.directory}: no instruction was set aside, by which a learning rate could be chosen; "
                         f"tune.validation sets some aside")  # fmt: skip
    return float(np.mean(losses))


def rows_of(result: Result) -> list[Row]:
    """Its held-out instructions."""
    return [row for row in result.tables[EVALUATION_ROWS] if row["part"] == PART]


def held_out_rows(found: Mapping[str, Sequence[Result]], run: Run) -> list[Row]:
    """The held-out instructions of all trainings, which are the same.

    Raises:
      InputError: they are not, or a training is of another model.
    """
    rows: list[Row] | None = None
    learnt: list[int] | None = None
    for result in (one for results in found.values() for one in results):
        if result.summary["model"]["digest"] != run.manifest.model.digest:
            raise InputError(f"{result.directory}: was trained from another model than that of {run.location}")
        if result.summary["categories"] != run.categories:
            raise InputError(f"{result.directory}: has the categories {', '.join(result.summary['categories'])}, "
                             f"{run.location} {', '.join(run.categories)}")  # fmt: skip
        own = rows_of(result)
        if not own:
            raise InputError(f"{result.directory}: no instruction was held out")
        rows, learnt = rows or own, learnt or result.summary["learnt"]
        if [row["id"] for row in own] != [row["id"] for row in rows] or result.summary["learnt"] != learnt:
            raise InputError(f"{result.directory}: learnt from or held out other instructions than the first training")
    assert rows is not None
    return rows


def _require_alike(found: Mapping[str, Sequence[Result]]) -> None:
    """Refuses results that differ in more than their seed, or trainings whose losses are not the same thing."""
    first = next(iter(found.values()))[0]
    for results in found.values():
        for one in results:
            for other, what in ((results[0], _settings(one) | {"units": one.summary["train"]["digest"]}),
                                (first, {name: one.summary["settings"][name] for name in ALIKE})):  # fmt: skip
                was = _settings(other) | {"units": other.summary["train"]["digest"]}
                if changed := difference({name: was[name] for name in what}, what):
                    raise InputError(f"{one.directory}: was not trained as {other.directory} ({changed}), so that they "
                                     f"cannot be put together")  # fmt: skip
            if one.summary["instructions"]["digest"] != first.summary["instructions"]["digest"]:
                raise InputError(f"{one.directory}: was trained on other instructions than {first.directory}")


def _settings(result: Result) -> dict[str, Any]:
    return {name: value for name, value in result.summary["settings"].items() if name not in FREE}


def runs_of(runs: Sequence[Run], found: Mapping[str, Sequence[Result]], base: Run) -> dict[str, Run]:
    """The runs, by the training whose first seed's model they are of.

    Raises:
      InputError: a run is of none, or does not have the rows and the rules of the one before.
    """
    models = {name: results[0].directory / "model" for name, results in found.items()}
    digests = {open_model(path).digest: name for name, path in models.items() if path.exists()}
    of = {}
    for run in runs:
        run.require_complete()
        if (name := digests.get(run.manifest.model.digest)) is None:
            raise InputError(f"{run.location}: was captured from none of the models that were trained")
        if run.manifest.instructions.digest != base.manifest.instructions.digest:
            raise InputError(f"{run.location}: has other instructions than {base.location}")
        was, now = ({name: value for name, value in one.manifest.capture.items() if name != "rows_per_block"}
                    for one in (base, run))  # fmt: skip
        if changed := difference(was, now):
            raise InputError(f"{run.location}: was captured otherwise than {base.location} ({changed})")
        of[name] = run
    return of
