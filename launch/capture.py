"""Captures the activation statistics of a model over instructions; run it again to go on after a kill.

launch/capture.py --model=MODEL_DIR --instructions=hexainst|FILE.jsonl --output=RUN [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import define_config, run_command

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", None, "hexainst, or a JSONL file", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "the run to write: a path, gs:// or s3://", required=True)
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "share the work with the other processes of a job")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT for process 0, where JAX cannot find it")
_PROCESSES = flags.DEFINE_integer("processes", None, "how many processes share the work, with --coordinator")
_PROCESS = flags.DEFINE_integer("process", None, "which of them this is, from 0, with --coordinator")
_CONFIG = define_config("settings; section `capture` is used, with keep=sets `identify` too")
_DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "default.py"


def main() -> None:
    """Runs the command."""
    from sparcom_jax.capture.engine import capture
    from sparcom_jax.capture.settings import CaptureSettings
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.engine.processes import join_processes
    from sparcom_jax.identify.selection import OF_NEURONS, Selection
    from sparcom_jax.instructions.rows import load_instructions
    from sparcom_jax.settings import build, checked, require_read

    config = checked(_CONFIG.value)
    of_sets = OF_NEURONS if config["capture"]["keep"] == "sets" else ()
    read = [*(f"capture.{name}" for name in config["capture"]), *(f"identify.{name}" for name in of_sets)]
    what = f"the section capture and, only with capture.keep=sets, {', '.join(OF_NEURONS)} of identify"
    require_read(flags.FLAGS["config"].override_values, read, what)
    settings = build(CaptureSettings, config["capture"], "capture")
    selection = build(Selection, config["identify"], "identify")
    join_processes(_DISTRIBUTED.value, _COORDINATOR.value, _PROCESSES.value, _PROCESS.value)
    capture(open_model(_MODEL.value), load_instructions(_INSTRUCTIONS.value), _OUTPUT.value, settings, selection)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _DEFAULT)
