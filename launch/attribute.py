"""Attributes the likelihood of the reference responses to every neuron and expert, by gradients.

launch/attribute.py --model=MODEL_DIR --run=RUN [--method=gradient] [--steps=16] [--per_category=0]
                    [--config=configs/NAME.py]
"""

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_CONFIG = ConfigFlag(Part("execution"), Part("attribute"), short=fields_of("attribute"))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.attribution.attribute import attribute
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.store.run import open_run
    from sparcom_jax.summaries.runs import attributed
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    made = attribute(open_model(_MODEL.value), open_run(_RUN.value), study.attribute, study.execution)
    show(attributed(made))
    print(f"{_RUN.value}/attribution/{study.attribute.method}")


if __name__ == "__main__":
    run_command(main, _CONFIG)
