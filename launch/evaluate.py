"""Measures generality and uniqueness of the units of every category.

launch/evaluate.py --run=RUN [--set=excess] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = ConfigFlag(Part("set_name"), Part("evaluate"), short={"set": "set_name", **fields_of("evaluate")})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.evaluate import evaluate
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    evaluate(open_run(_RUN.value), Path(_OUTPUT.value), study.evaluate, set_name=study.name_of_sets)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
