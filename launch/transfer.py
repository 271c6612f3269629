"""Switches off units that another run chose, and measures the likelihood of this run's reference responses.

launch/transfer.py --model=MODEL_DIR --run=RUN --units-run=OTHER_RUN --units=NAME --output=DIR
"""

from dataclasses import fields
from pathlib import Path

from absl import flags

from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it, and is measured", required=True)
_UNITS_RUN = flags.DEFINE_string("units-run", None, "the run that chose the units", required=True)
_UNITS = flags.DEFINE_string("units", None, "their name, below units/ of that run", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_READ = tuple(field.name for field in fields(AblationSettings) if field.name != "rho")
_CONFIG = ConfigFlag(Part("execution"), Part("ablate", only=_READ))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.transfer import transfer
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    model, run, units_run = open_model(_MODEL.value), open_run(_RUN.value), open_run(_UNITS_RUN.value)
    transfer(model, run, units_run, _UNITS.value, Path(_OUTPUT.value), study.ablate, study.execution)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
