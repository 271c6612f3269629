"""Causal role: what switching off a category's units does to the likelihood of every category's responses."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from sparcom_jax.causal.controls import random_units
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.tables import Measured, origin_summary, write_tables
from sparcom_jax.causal.targets import (
    TARGETS,
    Units,
    require_enough_experts,
    require_units_to_switch_off,
    targets_of,
    units_of,
)
from sparcom_jax.causal.texts import category_means, scored_rows, scored_texts
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.edits import Edits
from sparcom_jax.progress import progress
from sparcom_jax.results.files import start_results, write_summary
from sparcom_jax.results.tables import TABLES
from sparcom_jax.store.run import Run
from sparcom_jax.store.units import require_of_run
from sparcom_jax.units.groups import Group
from sparcom_jax.units.unit_set import UnitSet

Score = Callable[[Edits, str], Float64[np.ndarray, "C"]]
"""Mean negative log likelihood of each category under edits; the text says what they do, for an error."""


def ablate(
    model: ModelDir,
    run: Run,
    units: UnitSet,
    output: Path,
    settings: AblationSettings = AblationSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> dict[str, Any]:
    """Switches off the neurons, then the experts, of each category, against random units.

    Neurons are multiplied by 0 at the input of down_proj; experts have their router logits set to minus infinity. The
    random units are as many in every layer and group, drawn from the layer's other units.

    Args:
      model: the model that the run was captured from.
      run: a complete run, whose instructions have responses.
      units: what to switch off: the cores of a set (`select/cores.py`), or any other units that the run chose.
      output: directory of `ablation.csv`, `baseline.csv` and `summary.json`, written last.
      settings: how to switch off and how to measure.
      execution: where and how the model runs.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete, lacks responses, or was captured from another model; the units are of another
        run; there is nothing to switch off; or a likelihood is not finite.
    """
    settings.check()
    execution.check()
    model.require_head("ablation")
    run.require_complete()
    if run.manifest.model.digest != model.digest:
        raise InputError(f"{run.location}: was captured from another model than {model.path}")
    if run.manifest.tokenizer.digest != model.tokenizer_digest:
        raise InputError(f"{run.location}: was captured with another tokenizer than that of {model.path}")
    require_of_run(run, units)
    targets = targets_of(units)
    require_units_to_switch_off(run, units, targets)
    require_enough_experts(run, units)
    rows = scored_rows(run, settings.per_category)
    texts = scored_texts(model, run, rows)
    placement = make_placement(execution.placement, model.config)
    start_results(output, "ablate")
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    names = [run.instructions[row]["id"] for row in rows]
    likelihood = Likelihood(placed, texts, names, execution.batch_tokens)
    category = run.category[rows]

    def score(edits: Edits, when: str) -> Float64[np.ndarray, "C"]:
        return category_means(likelihood.mean_nll(edits, when), category, len(run.categories))

    baseline = score(_edits(run.groups, {}), " with nothing switched off")
    measured = _measure(score, run, units, targets, settings)
    write_tables(output, units, texts, category, baseline, measured)
    return write_summary(
        output,
        {
            "kind": "ablate",
            **run.record(),
            **origin_summary(run, units),
            "settings": {
                **({"rho": units.origin["rho"]} if "rho" in units.origin else {}),
                "draws": settings.draws,
                "per_category": settings.per_category,
                "template": run.manifest.capture["template"],
                "seed": settings.seed,
                "ablation": "zero",
                "control": "random units of the same layer and group, as many",
            },
            "categories": run.categories,
            "tables": [table.name for table in TABLES["ablate"]],
            "baseline": baseline,
            "targets": {target: one.summary(baseline) for target, one in measured.items()},
        },
    )


def _measure(
    score: Score, run: Run, units: UnitSet, targets: Mapping[str, list[str]], settings: AblationSettings
) -> dict[str, Measured]:
    """Switches off the units of every category and target, and random ones in their place."""
    categories, draws = units.categories, settings.draws
    measured = {
        target: Measured(units.counts(groups), np.zeros((1 + draws, len(categories), len(categories))))
        for target, groups in targets.items()
    }
    work = [(target, off) for target in targets for off in range(len(categories))]
    with progress("ablate", len(work) * (1 + draws), "forward passes") as bar:
        for target, off in work:
            chosen = units_of(units, targets[target], off)
            random = np.random.default_rng([settings.seed, off, list(TARGETS).index(target)])
            for draw, mine in enumerate([chosen, *random_units(chosen, draws, random)]):
                what = f"random {target} (draw {draw}) in the place of" if draw else f"the {units.selector} {target} of"
                when = f" with {what} {categories[off]} switched off"
                measured[target].nll[draw, off] = score(_edits(run.groups, mine), when)
                bar.advance()
    return measured


def _edits(groups: Mapping[str, Group], off: Units) -> Edits:
    """Edits that switch off the units given and leave all others as they are."""
    nothing = {name: np.zeros(group.shape, bool) for name, group in groups.items()}
    return Edits.switch_off(nothing | dict(off))
