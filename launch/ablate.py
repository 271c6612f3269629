"""Switches off the units of each category and measures the likelihood of the reference responses.

launch/ablate.py --model=MODEL_DIR --run=RUN [--set=frequency | --units=NAME] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import define_config, run_command

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_SET = flags.DEFINE_string("set", "frequency", "name of the sets that identify wrote: their core units")
_UNITS = flags.DEFINE_string("units", None, "instead of a set, name of the units, below RUN/units/")
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = define_config("settings; section `ablate` is used, and the batches and placement of `capture`")
_DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "default.py"


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.ablate import AblationSettings, ablate
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.errors import InputError
    from sparcom_jax.select.cores import core
    from sparcom_jax.settings import SHARED, build, checked, require_read, shared_with_capture
    from sparcom_jax.store.run import open_run
    from sparcom_jax.store.sets import open_sets
    from sparcom_jax.store.units import open_units

    if _UNITS.value and _SET.present:
        raise InputError("--set and --units are two sources of the units to switch off; give one")
    config = checked(_CONFIG.value)
    of_units = {"rho"} if _UNITS.value else set()  # what makes a core of a set
    read = [*(f"ablate.{name}" for name in config["ablate"] if name not in of_units),
            *(f"capture.{name}" for name in SHARED)]  # fmt: skip
    what = f"the section ablate{' without rho' if of_units else ''} and {', '.join(SHARED)} of capture"
    require_read(flags.FLAGS["config"].override_values, read, what)
    settings = build(AblationSettings, config["ablate"] | shared_with_capture(config["capture"]), "ablate")
    model, run = open_model(_MODEL.value), open_run(_RUN.value)
    run.require_complete()
    units = open_units(run, _UNITS.value) if _UNITS.value else core(open_sets(run, _SET.value), settings.rho)
    ablate(model, run, units, Path(_OUTPUT.value), settings)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _DEFAULT)
