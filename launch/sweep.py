"""Cuts S(i) at several values of epsilon, or of a threshold, and says what the cores are then.

launch/sweep.py --run=RUN --output=DIR [--selector=threshold] [--cuts=0.5,0.7,0.9] [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the table", required=True)
_OF_IDENTIFY = ("selector", "ties", "pool")
_CONFIG = ConfigFlag(
    Part("identify", only=_OF_IDENTIFY),
    Part("sweep"),
    short={**{name: f"identify.{name}" for name in _OF_IDENTIFY}, **fields_of("sweep")},
)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.sweep import sweep
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    sweep(open_run(_RUN.value), Path(_OUTPUT.value), study.identify, study.sweep)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
