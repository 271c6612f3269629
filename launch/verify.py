"""Checks a converted model against transformers on the checkpoint that it was made from; needs torch.

launch/verify.py --source=HF_DIR|FILE.gguf --model=MODEL_DIR [--instructions=hexainst] [--count=60] [--dtype=float32]
                 [--output=FILE]

Exit code 1 where signs, routing or logits fall short.
"""

import json
from pathlib import Path

from absl import flags

from sparcom_jax.command import run_command
from sparcom_jax.errors import InputError

_SOURCE = flags.DEFINE_string("source", None, "Hugging Face directory or GGUF file", required=True)
_MODEL = flags.DEFINE_string("model", None, "the converted model", required=True)
_INSTRUCTIONS = flags.DEFINE_string("instructions", "hexainst", "instruction file, or hexainst")
_COUNT = flags.DEFINE_integer("count", 60, "instructions to compare on, taken evenly from the file")
_DTYPE = flags.DEFINE_string("dtype", "float32", "float32, or bfloat16, which is measured but not judged")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write")


def main() -> None:
    """Runs the command."""
    from sparcom_jax.convert.model_dir import open_model
    from sparcom_jax.instructions.rows import load_instructions
    from sparcom_jax.summaries.models import verified
    from sparcom_jax.summaries.screen import show

    try:
        from sparcom_jax.verify.verify import render, verify
    except ImportError as error:
        raise InputError(f"verifying needs torch: pip install torch ({error})") from error
    outcome = verify(open_model(_MODEL.value), Path(_SOURCE.value), load_instructions(_INSTRUCTIONS.value),
                     _COUNT.value, _DTYPE.value)  # fmt: skip
    print(render(outcome), flush=True)
    if _OUTPUT.value:
        Path(_OUTPUT.value).write_text(json.dumps(outcome.to_json(), indent=1) + "\n")
    show(verified(_MODEL.value, outcome.to_json()))
    raise SystemExit(1 if outcome.faults else 0)


if __name__ == "__main__":
    run_command(main)
