"""Reads the texts that matter once more and writes a card of each unit: when it is active, at what, and what it writes.

launch/explore.py --model=MODEL_DIR --run=RUN --units=NAME [--top=50] [--examples=10] [--set=excess]
                  [--other=RUN] [--output=DIR] [--texts] [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_UNITS = flags.DEFINE_string("units", None, "name of the units, below RUN/units/", required=True)
_OTHER = flags.DEFINE_string("other", None, "run of the base model, or another with the same units, shown beside it")
_OUTPUT = flags.DEFINE_string("output", None, "directory of the same as a result, for the report (default: none)")
_CONFIG = ConfigFlag(Part("set_name"), Part("execution"), Part("explore"),
                     short={"set": "set_name"} | fields_of("explore"))  # fmt: skip


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.units import write_cards
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.explore.explore import explore
    from sparcom_jax.store.run import open_run
    from sparcom_jax.store.units import open_units
    from sparcom_jax.summaries.runs import explored
    from sparcom_jax.summaries.screen import show

    study, run = _CONFIG.settings(), open_run(_RUN.value)
    run.require_complete()
    units = open_units(run, _UNITS.value)
    cards = explore(open_model(_MODEL.value), run, units, study.explore, study.execution, set_name=study.name_of_sets,
                    other=_OTHER.value)  # fmt: skip
    if _OUTPUT.value:
        write_cards(run, _UNITS.value, Path(_OUTPUT.value))
    made = f"{_RUN.value}/explored/{_UNITS.value}.json"
    show(explored(made, cards))
    print(made)
    if _OUTPUT.value:
        print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
