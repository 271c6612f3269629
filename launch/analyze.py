"""Runs a whole study from checkpoints to the report; run it again to go on after a kill.

launch/analyze.py --config=configs/demo.py --output=DIR
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import WHOLE_STUDY, ConfigFlag

_OUTPUT = flags.DEFINE_string("output", None, "directory of everything that is made", required=True)
_CONFIG = ConfigFlag(*WHOLE_STUDY, required=True)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.study import analyze
    from sparcom_jax.summaries.screen import show
    from sparcom_jax.summaries.studies import summary_of_all

    page = analyze(_CONFIG.settings(), Path(_OUTPUT.value))
    show(summary_of_all(f"analyze: {_OUTPUT.value}", Path(_OUTPUT.value) / "results", page))
    print(page)


if __name__ == "__main__":
    run_command(main, _CONFIG)
