"""Finds the instruction-specific neurons and experts of a run.

launch/identify.py --run=RUN [--epsilon=0.05] [--ties=include] [--selector=excess] [--name=SELECTOR]
                   [--config=configs/NAME.py]

A run that keeps sets was cut by its capture: fields that are not given are then as they were there. Given are all
fields of the file that --config names; without one, those that flags name.
"""

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_RUN = flags.DEFINE_string("run", None, "the run: a path, gs:// or s3://", required=True)
_CONFIG = ConfigFlag(Part("set_name"), Part("identify"), short={"name": "set_name", **fields_of("identify")})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.identify.select import identify
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.runs import identified
    from sparcom_jax.summaries.screen import show

    name = _CONFIG.settings().set_name
    sets = identify(open_run(_RUN.value), name=name, **_CONFIG.given("identify"))
    show(identified(sets))
    print(f"{_RUN.value}/sets/{sets.name}")


if __name__ == "__main__":
    run_command(main, _CONFIG)
