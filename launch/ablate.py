"""Switches off the units of each category and measures the likelihood of the reference responses.

launch/ablate.py --model=MODEL_DIR --run=RUN [--set=excess | --units=NAME] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_UNITS = flags.DEFINE_string("units", None, "instead of the cores of a set, name of the units, below RUN/units/")
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = ConfigFlag(Part("set_name"), Part("execution"), Part("ablate"), short={"set": "set_name"})
OF_CORES = ("set_name", "ablate.rho")


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.ablate import ablate
    from sparcom_jax.causal.targets import cores
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.errors import InputError
    from sparcom_jax.store.run import open_run
    from sparcom_jax.store.sets import open_sets
    from sparcom_jax.store.units import open_units
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    if _UNITS.value and (given := _CONFIG.flag_of(*OF_CORES)):
        raise InputError(f"{given} is of the cores of a set, but --units names what is switched off; give one")
    model, run = open_model(_MODEL.value), open_run(_RUN.value)
    run.require_complete()
    units = open_units(run, _UNITS.value) if _UNITS.value else cores(open_sets(run, study.name_of_sets), study.ablate)
    ablate(model, run, units, Path(_OUTPUT.value), study.ablate, study.execution)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
