"""Compares trainings of one model: gain, forgetting, share of the gain of training all, and which units changed.

launch/tunings.py --run=RUN --trained=DIR --output=DIR [--tuned=RUN,RUN]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part

READ = ("bootstraps", "draws", "seed")

_RUN = flags.DEFINE_string("run", None, "the run of the model as it was", required=True)
_TRAINED = flags.DEFINE_string("trained", None, "directory below which finetune wrote", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_TUNED = flags.DEFINE_list("tuned", [], "runs of tuned models, by which it is seen which units changed")
_CONFIG = ConfigFlag(Part("tunings", only=READ), short={name: f"tunings.{name}" for name in READ})


def main() -> None:
    """Runs the command."""
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show
    from sparcom_jax.tune.tunings import tunings

    study = _CONFIG.settings()
    tunings(_RUN.value, _TRAINED.value, _OUTPUT.value, study.tunings, tuned_runs=_TUNED.value)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
