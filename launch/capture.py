"""Captures the activation statistics of a model over instructions; run it again to go on after a kill.

launch/capture.py --model=MODEL_DIR --instructions=hexainst|FILE.jsonl --output=RUN [--config=configs/NAME.py]
"""

import time

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.config_flag import ConfigFlag, Part
from sparcom_jax.identify.selection import OF_NEURONS

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", None, "hexainst, or a JSONL file", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the run to write: a path, gs:// or s3://", required=True)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "share the work with the other processes of a job")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT for process 0, where JAX cannot find it")
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes share the work, with --coordinator")
_PROCESS = flags.DEFINE_integer("process", None, "which of them this is, from 0, with --coordinator")
_CONFIG = ConfigFlag(
    Part("execution"), Part("capture"), Part("identify", only=OF_NEURONS, only_with=("capture.keep", "sets"))
)


def main() -> None:
    """Runs the command."""
    from sparcom_jax.capture.capture import capture
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.engine.processes import join_processes
    from sparcom_jax.instructions.rows import load_instructions
    from sparcom_jax.store.run import count_done
    from sparcom_jax.summaries.runs import captured
    from sparcom_jax.summaries.screen import show

    study = _CONFIG.settings()
    join_processes(_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    model, instructions = open_model(_MODEL.value), load_instructions(_INSTRUCTIONS.value)
    before, begun = count_done(_OUTPUT.value), time.monotonic()
    run = capture(model, instructions, _OUTPUT.value, study.capture, study.identify, study.execution)
    show(captured(run, before, time.monotonic() - begun))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _CONFIG)
