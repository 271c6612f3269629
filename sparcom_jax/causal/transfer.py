"""Transfer: units that another run chose, switched off in this model and measured on this run's instructions."""

from pathlib import Path
from typing import Any

from sparcom_jax.causal.ablate import act_on
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.subject import foreign_subject
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.units import open_units


def transfer(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    units_run: Run | str | Path,
    units: str,
    output: str | Path,
    settings: AblationSettings = AblationSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
) -> dict[str, Any]:
    """As `ablate`, of units that another run chose: of other instructions, or of another model.

    Measured are instructions of `run` of which neither id nor text is that of one that chose the units.

    Args:
      model: the model in which they are switched off, that `run` was captured from, or its directory.
      run: a complete run, whose instructions have responses, or its path or URL.
      units_run: the run that chose the units, of a model of the same architecture, or its path or URL.
      units: their name, below `units/` of it.
      output: directory of the tables, those of an ablation, and of `summary.json`.
      settings: how to switch off and how to measure.
      execution: where and how the model runs.

    Returns:
      The content of `summary.json`, which says in `units_from` where the units come from.

    Raises:
      InputError: as for `ablate`; or the models differ in architecture, or the units lack a category of `run`.
    """
    model, run, units_run = as_model(model), as_run(run), as_run(units_run)
    run.require_complete()
    subject = foreign_subject(run, units_run, open_units(units_run, units))
    return act_on(model, run, subject, Path(output), settings, execution)
