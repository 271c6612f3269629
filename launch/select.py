"""Chooses the units of every category of instruction, by one or several selectors, from what a run counted.

launch/select.py --run=RUN [--selector=auroc] [--size=400] [--name=SELECTOR] [--config=configs/NAME.py]
"""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path

if __name__ == "select":
    # Python looks into the directory of a launcher first, also for the standard library's module of this name.
    elsewhere = [path for path in sys.path if Path(path).resolve() != Path(__file__).resolve().parent]
    if (spec := PathFinder.find_spec("select", elsewhere)) is None or spec.loader is None:
        raise ModuleNotFoundError("the standard library has no module select")
    sys.modules["select"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["select"])
else:
    from absl import flags

    from sparcom_jax.command import run_command
    from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

    _RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
    _NAME = flags.DEFINE_string("name", None, "name of the units, below RUN/units/; default: that of the selector")
    _CONFIG = ConfigFlag(Part("set_name"), Part("select"), short={"set": "set_name", **fields_of("select")})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.select.select import select
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.runs import chosen
    from sparcom_jax.summaries.screen import show

    study, run = _CONFIG.settings(), open_run(_RUN.value)
    made = select(run, study.select, name=_NAME.value or "", set_name=study.name_of_sets)
    show(chosen(run, made))
    for units in made:
        print(f"{_RUN.value}/units/{units.name}")


if __name__ == "__main__":
    run_command(main, _CONFIG)
