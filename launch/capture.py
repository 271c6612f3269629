"""Captures the activation statistics of a model over instructions; run it again to go on after a kill.

launch/capture.py --model=MODEL_DIR --instructions=hexainst|FILE.jsonl --output=RUN [--config=configs/NAME.py]
"""

from pathlib import Path

import jax
from absl import flags
from ml_collections import config_flags

from sparcom_jax.capture.engine import CaptureSettings, capture
from sparcom_jax.command import run_command
from sparcom_jax.convert.model_dir import open_model
from sparcom_jax.data.instructions import load_instructions
from sparcom_jax.settings import build

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", None, "hexainst, or a JSONL file", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the run to write: a path, gs:// or s3://", required=True)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "join the other processes of a TPU pod or SLURM job")
_CONFIG = config_flags.DEFINE_config_file("config", None, "settings; section `capture` is used")
_DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "default.py"


def main() -> None:
    """Runs the command."""
    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    settings = build(CaptureSettings, _CONFIG.value.capture.to_dict(), "capture")
    capture(open_model(_MODEL.value), load_instructions(_INSTRUCTIONS.value), _OUTPUT.value, settings)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _DEFAULT)
