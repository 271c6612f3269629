"""Converts a checkpoint to Flax; quantised weights are dequantised, an adapter is merged.

launch/convert.py --source=HF_DIR_OR_HUB_ID|FILE.gguf --output=MODEL_DIR [--adapter=LORA_DIR] [--dtype=bfloat16]
"""

from absl import flags

from sparcom_jax.command import run_command

_SOURCE = flags.DEFINE_string(
    "source", None, "Hugging Face directory, GGUF file, or id of a model on the hub", required=True
)
_OUTPUT = flags.DEFINE_string("output", None, "directory to make", required=True)
_ADAPTER = flags.DEFINE_string("adapter", None, "directory of a LoRA adapter that is merged into the model")
_DTYPE = flags.DEFINE_enum("dtype", None, ["bfloat16", "float32"], "what quantised weights are turned into")


def main() -> None:
    """Runs the command."""
    import jax

    from sparcom_jax.convert.model_dir import convert
    from sparcom_jax.summaries.models import converted
    from sparcom_jax.summaries.screen import show

    jax.config.update("jax_platforms", "cpu")  # reads and writes files; an accelerator has no part in it
    model = convert(_SOURCE.value, _OUTPUT.value, dtype=_DTYPE.value, adapter=_ADAPTER.value)
    show(converted(model, _OUTPUT.value))
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
