"""Compares the units that several selectors choose for every category.

launch/agree.py --run=RUN --output=DIR [--selectors=auroc,difference] [--set=excess] [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.analysis.settings import OF_SELECT
from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the table", required=True)

_CONFIG = ConfigFlag(
    Part("set_name"),
    Part("select", only=OF_SELECT),
    Part("agree"),
    short={"set": "set_name", **{name: f"select.{name}" for name in OF_SELECT}, **fields_of("agree")},
)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.analysis.agree import agree
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    agree(open_run(_RUN.value), Path(_OUTPUT.value), study.select, study.agree, set_name=study.name_of_sets)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
