"""A category's units turned up and down while the model answers: dose against quality.

Axis legend: S instructions that are asked.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from sparcom_jax.batches.tokens import extended
from sparcom_jax.capture.generate import Edited, GenerateSettings, continue_block
from sparcom_jax.causal.controls import frequency_bins, layer_bins, random_units
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.causal.settings import AblationSettings, SteerSettings
from sparcom_jax.causal.subject import own_subject
from sparcom_jax.causal.targets import Units, targets_of, units_of
from sparcom_jax.causal.texts import prompts_of, require_model_of, require_room, scored_rows, texts_of
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import PlacedModel, place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.instructions.answers import are_right, is_settled
from sparcom_jax.progress import progress
from sparcom_jax.resampling import bootstrap_weights, category_means, interval, one_hot
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.steering import STEERING, STEERING_TABLES, STEERING_TEXTS
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.units import as_units
from sparcom_jax.units.unit_set import UnitSet

AS_IT_IS = "none"
RUN_OF_TOKENS = 4


@dataclass(frozen=True, eq=False)
class Dose:
    """What is scaled, and by how much.

    Attributes:
      kind: the selector of the units, `random_matched` or `random`, or `none`.
      draw: number of the random set, from 1; 0 for others.
      category: whose units they are, or take the place of; empty for none.
      alpha: what their output is multiplied by.
      units: they.
    """

    kind: str
    draw: int
    category: str
    alpha: float
    units: Units


@dataclass(frozen=True, eq=False)
class Quality:
    """What a model under a dose says, and expects.

    Attributes:
      nll: of the reference responses, in nats per token.
      tokens: length of the answers.
      ended: 1 where an answer ends by itself.
      repeated: share of an answer's runs of four tokens that it has had before.
      own_nll: of the answers by the model as it is, in nats per token.
      right: 1 where an answer is right; NaN where that cannot be settled.
      texts: the answers.
    """

    nll: Float64[np.ndarray, "S"]
    tokens: Float64[np.ndarray, "S"]
    ended: Float64[np.ndarray, "S"]
    repeated: Float64[np.ndarray, "S"]
    own_nll: Float64[np.ndarray, "S"]
    right: Float64[np.ndarray, "S"]
    texts: list[str]

    def values(self) -> Float64[np.ndarray, "S 5"]:
        """All that is there of every instruction."""
        return np.stack([self.nll, self.tokens, self.ended, self.repeated, self.own_nll], axis=1)


def steer(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    units: UnitSet | str,
    output: str | Path,
    settings: SteerSettings = SteerSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> dict[str, Any]:
    """Multiplies what a category's neurons write by several factors, and says what becomes of the answers.

    Neurons are scaled at every token of prompt and answer. Asked are instructions that did not choose the units, of
    every category; random neurons of equal layer and frequency are scaled by the same factors.

    Args:
      model: the model that the run was captured from, or its directory.
      run: a complete run, or its path or URL.
      units: what is scaled, or its name below `units/` of the run.
      output: directory of the tables and of `summary.json`, written last.
      settings: the factors, and how answers are made.
      execution: where and how the model runs.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: as for `answer`; or there is no such category.
    """
    model, run, output = as_model(model), as_run(run), Path(output)
    settings.check()
    execution.check()
    model.require_head("an answer")
    run.require_complete()
    units = as_units(run, units)
    require_model_of(run, model)
    subject = own_subject(run, units)
    groups = targets_of(units).get("neurons")
    if groups is None:
        raise InputError(f"{run.location}: {units.title} have no neurons to scale")
    if settings.category and settings.category not in run.categories:
        raise InputError(f"{run.location}: no category {settings.category!r}; there are {', '.join(run.categories)}")
    steered = [settings.category] if settings.category else list(run.categories)
    units.require_units(groups, f"{run.location}: {units.title} have no neurons", ", so there is nothing to scale")
    how = AblationSettings(how="scale", per_category=settings.per_category, measured=settings.measured)
    rows = scored_rows(run, subject, how)
    placement = make_placement(execution.placement, model.config)
    asked = _Asked(model, run, rows, settings, execution)
    start_results(output, "steer")
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    doses = list(_doses(run, units, groups, steered, settings))
    found = []
    with progress("steer", len(doses) * len(rows), "answers") as bar:
        judge = asked.judge(placed)
        for dose in doses:
            found.append((dose, judge(dose, Intervention(run.groups, replace(how, alpha=dose.alpha), None))))
            bar.advance(len(rows))
    category = run.category[rows]
    write_table(output, STEERING, _rows(run.categories, category, found, settings.seed))
    write_table(output, STEERING_TEXTS, _texts(run, rows, found))
    return write_summary(output, {
        "kind": "steer",
        **run.record(),
        **subject.told,
        "settings": asdict(settings) | {"template": run.manifest.capture["template"]},
        "categories": run.categories,
        "steered": steered,
        "asked": np.bincount(category, minlength=len(run.categories)),
        "held_out": int(settings.measured == "held_out"),
        "tables": [table.name for table in STEERING_TABLES],
    })  # fmt: skip


def _doses(
    run: Run, units: UnitSet, groups: list[str], steered: Sequence[str], settings: SteerSettings
) -> Iterator[Dose]:
    matched = run.selection is None
    bins = frequency_bins(mean_rates(run, {name: run.groups[name] for name in groups})) if matched else layer_bins(
        {name: units.mask[name][0] for name in groups}
    )  # fmt: skip
    yield Dose(AS_IT_IS, 0, "", 1.0, {})
    for name in steered:
        index = run.categories.index(name)
        own = units_of(units, groups, index)
        drawn = random_units(own, bins, settings.draws, np.random.default_rng([settings.seed, index]))
        sets: list[tuple[str, int, Units]] = [(units.selector, 0, own)]
        sets += [("random_matched" if matched else "random", draw, mask) for draw, mask in enumerate(drawn, 1)]
        for kind, draw, mask in sets:
            for alpha in settings.factors:
                yield Dose(kind, draw, name, alpha, mask)


class _Asked:
    """The instructions that are asked, with all that does not depend on a dose."""

    def __init__(
        self, model: ModelDir, run: Run, rows: Int64[np.ndarray, "S"], settings: SteerSettings,
        execution: ExecutionSettings,
    ) -> None:  # fmt: skip
        self._prompts, self._reader = prompts_of(model, run, rows)
        self._references = texts_of(model, run, rows)
        self._rows = [run.instructions[row] for row in rows]
        self._names = [row["id"] for row in self._rows]
        self._settled = [at for at, row in enumerate(self._rows) if is_settled(row, execute=False)]
        self._batch_tokens = execution.batch_tokens
        self._how = GenerateSettings(settings.new_tokens, model.stop_token_ids(), execution.batch_tokens, len(rows))
        require_room(model, run, rows, self._prompts, settings.new_tokens)

    def judge(self, model: PlacedModel) -> Callable[[Dose, Intervention], Quality]:
        """What judges a dose."""
        references = Likelihood(model, self._references, self._names, self._batch_tokens)

        def quality(dose: Dose, intervention: Intervention) -> Quality:
            edits = intervention.edits(dose.units)
            when = f" with the {dose.kind} neurons of {dose.category} times {dose.alpha:g}" if dose.category else ""
            nll = references.mean_nll(edits, when)
            made = continue_block(model, self._prompts, self._names, slice(0, len(self._names)), self._how,
                                  lambda _: None, Edited(edits, when))  # fmt: skip
            answers = [token[:length] for token, length in zip(made.token, made.length, strict=True)]
            own = extended(self._prompts, answers)
            plain = intervention.edits({})
            own_nll = Likelihood(model, own, self._names, self._batch_tokens).mean_nll(plain, "")
            texts = [self._reader.tokenizer.decode(one, skip_special_tokens=True).strip() for one in answers]
            right = np.full(len(texts), np.nan)
            settled = self._settled
            right[settled] = are_right([self._rows[at] for at in settled], [texts[at] for at in settled])
            return Quality(
                nll,
                made.length.astype(np.float64),
                np.asarray([float(one[-1] in self._how.stop) for one in answers]),
                np.asarray([repetition(one.tolist()) for one in answers]),
                own_nll,
                right,
                texts,
            )

        return quality


def repetition(tokens: Sequence[int]) -> float:
    """The share of the runs of four tokens of a text that it has had before; 0 of a text that is shorter."""
    runs = [tuple(tokens[at : at + RUN_OF_TOKENS]) for at in range(len(tokens) - RUN_OF_TOKENS + 1)]
    return 1 - len({*runs}) / len(runs) if runs else 0.0


def _rows(
    categories: Sequence[str], category: np.ndarray, found: Sequence[tuple[Dose, Quality]], seed: int
) -> Iterator[Sequence[object]]:
    observed = one_hot(category[None], len(categories))
    drawn = bootstrap_weights(category, len(categories), 1000, np.random.default_rng([seed, 2]))
    before = found[0][1].nll
    for dose, quality in found:
        values = np.concatenate([quality.values(), (quality.nll - before)[:, None]], axis=1)
        means = category_means(values, observed)[0]
        low, high = interval(category_means(values[:, -1:], drawn)[:, :, 0])
        for index, name in enumerate(categories):
            own = category == index
            if not own.any():
                continue
            right = quality.right[own]
            settled = int(np.isfinite(right).sum())
            nll, tokens, ended, repeated, own_nll, change = means[index]
            ends = (low[index], high[index]) if dose.category else ("", "")
            yield (dose.kind, dose.draw or "", dose.category, dose.alpha, name, int(own.sum()), nll, change, *ends,
                   tokens, ended, repeated, own_nll, settled, np.nanmean(right) if settled else "")  # fmt: skip


def _texts(run: Run, rows: Int64[np.ndarray, "S"], found: Sequence[tuple[Dose, Quality]]) -> Iterator[Sequence[object]]:
    for dose, quality in found:
        if not dose.draw:
            for row, text in zip(rows, quality.texts, strict=True):
                entry: Mapping[str, Any] = run.instructions[row]
                yield dose.kind, dose.category, dose.alpha, entry["id"], run.categories[run.category[row]], text
