"""What a model answers with the units of a category off: greedily, and whether that is right.

Axis legend: C categories, S instructions that are asked.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from sparcom_jax.capture.generate import Edited, GenerateSettings, continue_block
from sparcom_jax.causal.controls import frequency_bins, layer_bins, random_units
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.likelihood import UNTOUCHED
from sparcom_jax.causal.settings import AblationSettings, AnswerSettings
from sparcom_jax.causal.subject import own_subject
from sparcom_jax.causal.targets import (
    require_enough_experts,
    require_experts_to_act_on,
    require_units_to_switch_off,
    targets_of,
    units_of,
)
from sparcom_jax.causal.texts import prompts_of, require_model_of, require_room, scored_rows
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.instructions.answers import are_right, is_settled
from sparcom_jax.progress import progress
from sparcom_jax.resampling import bootstrap_weights, category_means, interval, one_hot
from sparcom_jax.results.answers import ANSWER_TABLES, ANSWER_TEXTS, ANSWERS
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.units import as_units
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.unit_set import UnitSet

NOTHING_OFF = "none"


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers under one edit.

    Attributes:
      target: `neurons` or `experts`; empty where nothing is off, as in what follows.
      kind: the selector of the units, `random_matched` or `random`, or `none`.
      draw: number of the random set, from 1; 0 for others.
      off: the category whose units are off, or in whose place others are; empty for none.
      right: whether each answer is right.
      texts: the answers.
    """

    target: str
    kind: str
    draw: int
    off: str
    right: Bool[np.ndarray, "S"]
    texts: list[str]


def answer(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    units: UnitSet | str,
    output: str | Path,
    settings: AnswerSettings = AnswerSettings(),
    ablation: AblationSettings = AblationSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> dict[str, Any]:
    """Lets the model answer with the units of every category off, and with random ones, and says how much is right.

    Answers are greedy continuations of the prompts as captured, units being off at every token of prompt and answer.
    Asked are the instructions that did not choose the units, of those whose answers can be settled
    (`instructions/answers.py`).

    Args:
      model: the model that the run was captured from, or its directory.
      run: a complete run, or its path or URL.
      units: what is switched off, or its name below `units/` of the run.
      output: directory of the tables and of `summary.json`, written last.
      settings: how answers are made.
      ablation: how units are switched off, and which instructions are asked: `how`, `alpha`, `experts`, `measured`,
        `per_category` and `seed`.
      execution: where and how the model runs.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: as for `ablate`; or no answer can be settled, or a text grows too long.
    """
    model, run, output = as_model(model), as_run(run), Path(output)
    settings.check()
    ablation = replace(ablation, keep=False, doses="")
    ablation.check()
    execution.check()
    model.require_head("an answer")
    run.require_complete()
    if ablation.how not in ("zero", "scale"):
        raise InputError(f"how {ablation.how} sets neurons to values of other texts; answers take zero or scale")
    units = as_units(run, units)
    require_model_of(run, model)
    subject, targets = own_subject(run, units), targets_of(units)
    require_units_to_switch_off(run, units, targets)
    require_experts_to_act_on(run, units, ablation)
    require_enough_experts(run, units, ablation)
    # Of those that can be settled so many of each category, not of all.
    eligible = scored_rows(run, subject, replace(ablation, per_category=0))
    rows = _settled(run, eligible, settings, ablation.per_category)
    prompts, reader = prompts_of(model, run, rows)
    names = [run.instructions[row]["id"] for row in rows]
    require_room(model, run, rows, prompts, settings.new_tokens)
    placement = make_placement(execution.placement, model.config)
    start_results(output, "answer")
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    how = GenerateSettings(settings.new_tokens, model.stop_token_ids(), execution.batch_tokens, len(names))
    asked = [run.instructions[row] for row in rows]

    def ask(advance: Callable[[int], object], edited: Edited) -> tuple[np.ndarray, list[str]]:
        made = continue_block(placed, prompts, names, slice(0, len(names)), how, advance, edited)
        texts = [reader.tokenizer.decode(token[:length], skip_special_tokens=True).strip()
                 for token, length in zip(made.token, made.length, strict=True)]  # fmt: skip
        return np.asarray(are_right(asked, texts)), texts

    rounds = 1 + len(targets) * len(units.categories) * (1 + settings.draws)
    with progress("answer", rounds * len(names), "answers") as bar:
        intervention = Intervention(run.groups, ablation, None)
        found = list(_ask_all(partial(ask, bar.advance), run, units, intervention, settings.draws))
    category = run.category[rows]
    write_table(output, ANSWERS, _rows(run.categories, category, found, ablation.seed))
    write_table(output, ANSWER_TEXTS, _texts(run, rows, found))
    read = ("how", "alpha", "experts", "measured", "per_category", "seed")
    told = {field: getattr(ablation, field) for field in read}
    return write_summary(output, {
        "kind": "answer",
        **run.record(),
        **subject.told,
        "settings": asdict(settings) | told | {"template": run.manifest.capture["template"]},
        "categories": run.categories,
        "asked": np.bincount(category, minlength=len(run.categories)),
        "held_out": int(ablation.measured == "held_out"),
        "targets": list(targets),
        "tables": [table.name for table in ANSWER_TABLES],
    })  # fmt: skip


def _settled(run: Run, eligible: Int64[np.ndarray, "_"], settings: AnswerSettings, per_category: int
             ) -> Int64[np.ndarray, "S"]:  # fmt: skip
    rows = [row for row in eligible if is_settled(run.instructions[row], settings.execute)]
    if not rows:
        takes = "CLS with labels, QA, MATH whose response ends with 'The answer is NUMBER.', or CODE with check"
        raise InputError(f"{run.location}: no answer can be settled: that takes {takes} and answer.execute")
    kept = []
    for category in range(len(run.categories)):
        of = [row for row in rows if run.category[row] == category]
        kept += of[: per_category or len(of)]
    return np.sort(np.asarray(kept, np.int64))


def _ask_all(
    ask: Callable[[Edited], tuple[np.ndarray, list[str]]],
    run: Run,
    units: UnitSet,
    intervention: Intervention,
    draws: int,
) -> Iterator[Answered]:
    targets, seed = targets_of(units), intervention.settings.seed
    matched = run.selection is None or set(units.groups) == {EXPERT_GROUP}
    bins = frequency_bins(mean_rates(run, units.groups)) if matched else layer_bins(
        {group: mask[0] for group, mask in units.mask.items()}
    )  # fmt: skip
    control = "random_matched" if matched else "random"
    yield Answered("", NOTHING_OFF, 0, "", *ask(Edited(intervention.edits({}), UNTOUCHED)))
    for target, groups in targets.items():
        for index, name in enumerate(units.categories):
            own = units_of(units, groups, index)
            when = f" with the {units.selector} {target} of {name} switched off"
            yield Answered(target, units.selector, 0, name, *ask(Edited(intervention.edits(own, index), when)))
            random = np.random.default_rng([seed, index, list(TARGETS).index(target)])
            for draw, drawn in enumerate(random_units(own, bins, draws, random), 1):
                when = f" with {control} {target} (draw {draw}) in the place of {name} switched off"
                yield Answered(target, control, draw, name, *ask(Edited(intervention.edits(drawn, index), when)))


def _rows(categories: Sequence[str], category: np.ndarray, found: Sequence[Answered], seed: int
          ) -> Iterator[Sequence[object]]:  # fmt: skip
    observed = one_hot(category[None], len(categories))
    resampled = bootstrap_weights(category, len(categories), 1000, np.random.default_rng([seed, 2]))
    before = found[0].right.astype(np.float64)
    asked = np.bincount(category, minlength=len(categories))
    for one in found:
        right = one.right.astype(np.float64)
        values: Float64[np.ndarray, "S 2"] = np.stack([right, right - before], axis=1)
        share, change = category_means(values, observed)[0].T
        low, high = interval(category_means(values, resampled)[:, :, 1])
        for index, name in enumerate(categories):
            if not asked[index]:
                continue
            ends = (low[index], high[index]) if one.kind != NOTHING_OFF else ("", "")
            yield (one.target, one.kind, one.draw or "", one.off, name, asked[index],
                   int(one.right[category == index].sum()), share[index], change[index], *ends)  # fmt: skip


def _texts(run: Run, rows: Int64[np.ndarray, "S"], found: Sequence[Answered]) -> Iterator[Sequence[object]]:
    for one in found:
        if not one.draw:
            for row, right, text in zip(rows, one.right, one.texts, strict=True):
                entry = run.instructions[row]
                yield one.target, one.kind, one.off, entry["id"], run.categories[run.category[row]], int(right), text
