"""Converts a Hugging Face checkpoint to Flax.

launch/convert.py --source=HF_DIR_OR_HUB_ID --output=MODEL_DIR
"""

import jax
from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.convert.model_dir import convert

_SOURCE = flags.DEFINE_string("source", None, "Hugging Face directory, or id of a model on the hub", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "directory to make", required=True)


def main() -> None:
    """Runs the command."""
    jax.config.update("jax_platforms", "cpu")  # reads and writes files; an accelerator has no part in it
    convert(_SOURCE.value, _OUTPUT.value)
    print(_OUTPUT.value)


if __name__ == "__main__":
    run_command(main)
