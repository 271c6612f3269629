"""Switches off the core units of each category and measures the likelihood of the reference responses.

launch/ablate.py --model=MODEL_DIR --run=RUN [--set=frequency] --output=DIR [--config=configs/NAME.py]
"""

from pathlib import Path

from absl import flags

from sparcom_jax.command import define_config, run_command

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_RUN = flags.DEFINE_string("run", None, "the run that was captured from it", required=True)
_SET = flags.DEFINE_string("set", "frequency", "name of the sets that identify wrote")
_OUTPUT = flags.DEFINE_string("output", None, "directory of the tables", required=True)
_CONFIG = define_config("settings; section `ablate` is used, and the batches and placement of `capture`")
_DEFAULT = Path(__file__).resolve().parents[1] / "configs" / "default.py"


def main() -> None:
    """Runs the command."""
    from sparcom_jax.causal.ablate import AblationSettings, ablate
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.settings import SHARED, build, checked, require_read, shared_with_capture
    from sparcom_jax.store.run import open_run

    config = checked(_CONFIG.value)
    read = [*(f"ablate.{name}" for name in config["ablate"]), *(f"capture.{name}" for name in SHARED)]
    what = f"the section ablate and {', '.join(SHARED)} of capture"
    require_read(flags.FLAGS["config"].override_values, read, what)
    fields = config["ablate"] | shared_with_capture(config["capture"]) | {"set_name": _SET.value}
    settings = build(AblationSettings, fields, "ablate")
    ablate(open_model(_MODEL.value), open_run(_RUN.value), Path(_OUTPUT.value), settings)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main, _DEFAULT)
