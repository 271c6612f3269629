"""Writes a converted model as a Hugging Face directory again, for whatever loads one.

launch/export.py --model=MODEL_DIR --output=HF_DIR
"""

from absl import flags

from sparcom_jax.command import run_command

_MODEL = flags.DEFINE_string("model", None, "directory that convert wrote", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory to make", required=True)


def main() -> None:
    """Runs the command."""
    import jax

    from sparcom_jax.convert.export import export
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.summaries.models import exported
    from sparcom_jax.summaries.screen import show

    jax.config.update("jax_platforms", "cpu")  # reads and writes files; an accelerator has no part in it
    model = open_model(_MODEL.value)
    show(exported(model, export(model, _OUTPUT.value), _OUTPUT.value))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
