"""Runs a whole study from checkpoints to the report; run it again to go on after a kill.

launch/analyze.py --config=configs/demo.py --output=DIR
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import define_config, run_command

_OUTPUT = flags.DEFINE_string("output", None, "directory of everything that is made", required=True)
_CONFIG = define_config("the study")


def main() -> None:
    """Runs the command."""
    from sparcom_jax.study import analyze

    print(analyze(_CONFIG.value, Path(_OUTPUT.value)))


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    run_command(main)
