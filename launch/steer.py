"""Turns a category's units up and down while the model answers, and says what becomes of the answers.

launch/steer.py --model=MODEL_DIR --run=RUN --units=NAME --output=DIR [--alphas=0,0.5,1.5,2,3] [--category=MATH]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_UNITS = flags.DEFINE_string("units", None, "name of the units, below RUN/units/", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = ConfigFlag(Part("execution"), Part("steer"), short=fields_of("steer"))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.steer import steer
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.store.run import open_run
    from sparcom_jax.store.units import open_units
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    model, run = open_model(_MODEL.value), open_run(_RUN.value)
    run.require_complete()
    steer(model, run, open_units(run, _UNITS.value), Path(_OUTPUT.value), study.steer, study.execution)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
