"""Lets a model answer with the units of each category off, and says how many answers are right.

launch/answer.py --model=MODEL_DIR --run=RUN --units=NAME --output=DIR [--new_tokens=128] [--execute]
                 [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_UNITS = flags.DEFINE_string("units", None, "name of the units, below RUN/units/", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_OF_ABLATE = ("how", "alpha", "experts", "measured", "per_category", "seed")
_CONFIG = ConfigFlag(Part("execution"), Part("ablate", only=_OF_ABLATE), Part("answer"), short=fields_of("answer"))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.answers import answer
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.store.run import open_run
    from sparcom_jax.store.units import open_units
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    model, run = open_model(_MODEL.value), open_run(_RUN.value)
    run.require_complete()
    answer(model, run, open_units(run, _UNITS.value), Path(_OUTPUT.value), study.answer, study.ablate, study.execution)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
