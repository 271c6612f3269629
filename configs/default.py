"""Defaults of every step, for use with any model.

    python launch/capture.py --model=MODEL_DIR --instructions=hexainst --output=RUN --config=configs/default.py

Scope `prompt`, no chat template, special tokens as the tokenizer adds them, every token that is fed is counted; float32
on CPU, the checkpoint's own dtype on accelerators; the model whole on every device (`pmap`).
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config


def get_config() -> ConfigDict:
    """The defaults."""
    return default_config()
