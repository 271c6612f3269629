"""Switches off the core units of each category and measures the likelihood of the reference responses.

launch/ablate.py --model=MODEL_DIR --run=RUN [--set=frequency] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = ConfigFlag(Part("set_name"), Part("execution"), Part("ablate"), short={"set": "set_name"})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.ablate import ablate
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.store.run import open_run

    study = _CONFIG.settings()
    ablate(open_model(_MODEL.value), open_run(_RUN.value), Path(_OUTPUT.value), study.ablate, study.execution,
           set_name=study.set_name)  # fmt: skip
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
