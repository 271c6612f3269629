"""Trains the units of a category, experts, layers, everything or a LoRA on the responses of instructions.

launch/finetune.py --model=MODEL_DIR --instructions=hexainst|FILE.jsonl --output=DIR [--run=RUN]
                   --train=units:NAME:CATEGORY|random:NAME:CATEGORY|experts:NAME:CATEGORY|layers:0,5-7|all|lora:RANK
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part, fields_of

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", None, "`hexainst`, or a JSONL file with responses", required=True)
_TRAIN = flags.DEFINE_string("train", None, "what is trained", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory to make; the tuned model is its model/", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that has the units; without it, NAME is a safetensors file of units")
_CONFIG = ConfigFlag(Part("execution"), Part("tune"), short=fields_of("tune"))


def main() -> None:
    """Runs the command."""
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.instructions.rows import load_instructions
    from sparcom_jax.summaries.results import summary_of
    from sparcom_jax.summaries.screen import show
    from sparcom_jax.tune.finetune import finetune

    study = _CONFIG.settings()
    model, instructions = open_model(_MODEL.value), load_instructions(_INSTRUCTIONS.value)
    finetune(model, instructions, _TRAIN.value, Path(_OUTPUT.value), study.tune, study.execution, run=_RUN.value)
    show(summary_of(Path(_OUTPUT.value)))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
