"""Causal role: what switching off a category's units does to the likelihood of every category's responses."""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from sparcom_jax.causal.controls import CONTROLS, Bins, frequency_bins, layer_bins
from sparcom_jax.causal.effects import Effects
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.likelihood import UNTOUCHED, Likelihood
from sparcom_jax.causal.measure import Passes
from sparcom_jax.causal.parts import parts_of
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.subject import Subject, own_subject
from sparcom_jax.causal.tables import write_tables
from sparcom_jax.causal.targets import (
    cores,
    require_enough_experts,
    require_experts_to_act_on,
    require_units_to_switch_off,
    targets_of,
)
from sparcom_jax.causal.texts import Scored, donor_rows, require_model_of, rows_beside, scored, texts_of
from sparcom_jax.causal.values import Donors, Means, donor_of_slots, measure_donors, measure_means
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import PlacedModel, place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.progress import progress, say
from sparcom_jax.resampling import bootstrap_weights, one_hot
from sparcom_jax.results.ablation import ABLATION_TABLES
from sparcom_jax.results.files import start_results, write_summary
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import Sets
from sparcom_jax.store.units import as_units
from sparcom_jax.units.groups import EXPERT_GROUP
from sparcom_jax.units.unit_set import UnitSet


def ablate(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    units: UnitSet | Sets | str,
    output: str | Path,
    settings: AblationSettings = AblationSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> dict[str, Any]:
    """Switches off the neurons, then the experts, of each category, against two kinds of random units.

    Neurons are multiplied by 0 at the input of down_proj, or set to what `settings.how` says; experts have their router
    logits set to minus infinity, or what `settings.experts` says becomes of them.
    Random units are as many in every layer and group (`random`), and in every decile of frequency besides
    (`random_matched`). Effects are measured on the instructions that did not choose the units.

    Args:
      model: the model that the run was captured from, or its directory.
      run: a complete run, whose instructions have responses, or its path or URL.
      units: what to switch off: units that the run chose, or their name below `units/` of it; or sets, of which the
        cores are switched off.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.
      settings: how to switch off and how to measure.
      execution: where and how the model runs.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete, lacks responses, or was captured from another model; the units are of another
        run, or were chosen by all that could be measured; there is nothing to switch off; or a likelihood is not
        finite.
    """
    model, run = as_model(model), as_run(run)
    settings.check()
    run.require_complete()
    chosen = cores(units, settings) if isinstance(units, Sets) else as_units(run, units)
    return act_on(model, run, own_subject(run, chosen), Path(output), settings, execution)


def act_on(
    model: ModelDir,
    run: Run,
    subject: Subject,
    output: Path,
    settings: AblationSettings,
    execution: ExecutionSettings,
) -> dict[str, Any]:
    """What `ablate` does, of whatever units: its own, or those that another run chose (`causal/transfer.py`).

    Args:
      model: as for `ablate`.
      run: as for `ablate`.
      subject: the units, and which instructions chose them.
      output: as for `ablate`.
      settings: as for `ablate`.
      execution: as for `ablate`.

    Raises:
      InputError: as for `ablate`.
    """
    settings.check()
    execution.check()
    model.require_head("ablation")
    units = subject.units
    require_model_of(run, model)
    targets = targets_of(units)
    require_units_to_switch_off(run, units, targets)
    require_experts_to_act_on(run, units, settings)
    require_enough_experts(run, units, settings)
    parts = parts_of(units, settings)
    measured_on = scored(model, run, subject, settings)
    placement = make_placement(execution.placement, model.config)
    start_results(output, "ablate")
    placed = place_model(model, placement, compute_dtype(execution.dtype, model.dtype))
    values = _values(model, run, placed, measured_on, settings, execution)
    intervention = Intervention(run.groups, settings, values)
    donor = partial(_donor, settings.seed, measured_on, values.variants) if isinstance(values, Donors) else None
    first = intervention.first_layer(units)
    likelihood = Likelihood(placed, measured_on.texts, measured_on.names, execution.batch_tokens, donor, first)
    with progress("untouched model", len(measured_on.names), "responses") as bar:
        baseline = likelihood.mean_nll(intervention.edits({}), UNTOUCHED, bar.advance)
    bins, absent = _bins(run, units)
    found = Passes(likelihood.mean_nll, units, measured_on, intervention, bins).run(parts)
    weights = _weights(measured_on, len(run.categories), settings)
    effects = {key: Effects(one, baseline, weights) for key, one in found.items()}
    write_tables(output, units, measured_on, effects)
    return write_summary(
        output,
        {
            "kind": "ablate",
            **run.record(),
            **subject.told,
            "settings": _settings(run, units, settings),
            "controls": {name: CONTROLS[name] for name in bins},
            "absent": absent,
            "categories": run.categories,
            "tables": [table.name for table in ABLATION_TABLES],
            "baseline": next(iter(effects.values())).baseline_means,
            "targets": {target: one.summary() for (target, dose), one in effects.items() if dose is None},
        },
    )


def _settings(run: Run, units: UnitSet, settings: AblationSettings) -> dict[str, Any]:
    told = asdict(settings)
    del told["rho"]
    rho = {"rho": units.origin["rho"]} if "rho" in units.origin else {}
    return {**rho, **told, "template": run.manifest.capture["template"]}


def _donor(seed: int, measured_on: Scored, donors: int, text: int) -> Int32[np.ndarray, "_"]:
    """Which value each token of a text that is scored takes."""
    return donor_of_slots(seed, int(measured_on.rows[text]), len(measured_on.texts.ids[text]), donors)


def _values(
    model: ModelDir,
    run: Run,
    placed: PlacedModel,
    measured_on: Scored,
    settings: AblationSettings,
    execution: ExecutionSettings,
) -> Means | Donors | None:
    """What neurons are set to, by instructions that are not measured; None where they are multiplied only."""
    if settings.how in ("zero", "scale"):
        return None
    rows = donor_rows(run, measured_on.rows) if settings.how == "resample" else rows_beside(run, measured_on.rows)
    names = [run.instructions[row]["id"] for row in rows]
    of = placed, texts_of(model, run, rows), run.category[rows], len(run.categories), names, execution.batch_tokens
    if settings.how == "resample":
        return measure_donors(*of, seed=settings.seed)
    return measure_means(*of, others=settings.how == "mean_others")


def _bins(run: Run, units: UnitSet) -> tuple[dict[str, Bins], dict[str, str]]:
    """By control, the bins that random units are drawn from; and why a control is absent, if one is."""
    bins = {"random": layer_bins({group: mask[0] for group, mask in units.mask.items()})}
    if run.selection is not None and set(units.groups) != {EXPERT_GROUP}:
        reason = "the capture kept sets, not counts, so frequencies are not known"
        say(f"{run.location}: no control that is matched on frequency: {reason}")
        return bins, {"random_matched": reason}
    return bins | {"random_matched": frequency_bins(mean_rates(run, units.groups))}, {}


def _weights(measured_on: Scored, categories: int, settings: AblationSettings) -> np.ndarray:
    random = np.random.default_rng([settings.seed, 1])
    observed = one_hot(measured_on.category[None], categories)
    return np.concatenate([observed, bootstrap_weights(measured_on.category, categories, settings.bootstraps, random)])
