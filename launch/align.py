"""Compares how often units are active with how much they contribute to the responses, layer by layer.

launch/align.py --run=RUN --output=DIR [--method=gradient] [--epsilon=0.05] [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_RUN = flags.DEFINE_string("run", None, "the run, after attribute: a path, gs:// or s3://", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the table", required=True)
_CONFIG = ConfigFlag(Part("align"), short=fields_of("align"))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.align import align
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    align(open_run(_RUN.value), Path(_OUTPUT.value), _CONFIG.settings().align)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
