"""Compares the sets of two models over the same instructions.

launch/compare.py --base=RUN --tuned=RUN [--set=excess] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_BASE = flags.DEFINE_string("base", None, "run of the base model: a path, gs:// or s3://", required=True)
_TUNED = flags.DEFINE_string("tuned", None, "run of the tuned model, or of any other", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = ConfigFlag(Part("set_name"), Part("compare"), short={"set": "set_name", **fields_of("compare")})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.compare import compare
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    base, tuned = open_run(_BASE.value), open_run(_TUNED.value)
    compare(base, tuned, Path(_OUTPUT.value), study.compare, set_name=study.name_of_sets)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
