"""Captures the activation statistics of a model over instructions; run it again to go on after a kill.

launch/capture.py --model=MODEL_DIR --instructions=hexainst|FILE.jsonl --output=RUN [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from sparcom_jax.capture.engine import CaptureSettings, capture
from sparcom_jax.command import run_command
from sparcom_jax.convert.model_dir import open_model
from sparcom_jax.data.instructions import load_instructions
from sparcom_jax.identify.selection import Selection
from sparcom_jax.parallel import join_processes
from sparcom_jax.settings import build

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", None, "hexainst, or a JSONL file", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the run to write: a path, gs:// or s3://", required=True)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "share the work with the other processes of a job")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT for process 0, where JAX cannot find it")
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes share the work, with --coordinator")
_PROCESS = flags.DEFINE_integer("process", None, "which of them this is, from 0, with --coordinator")
_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "settings; section `capture` is used, with keep=sets `identify` too"
)
_DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "default.py"


def main() -> None:
    """Runs the command."""
    join_processes(_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    settings = build(CaptureSettings, _CONFIG.value.capture.to_dict(), "capture")
    selection = build(Selection, _CONFIG.value.identify.to_dict(), "identify")
    capture(open_model(_MODEL.value), load_instructions(_INSTRUCTIONS.value), _OUTPUT.value, settings, selection)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _DEFAULT)
