"""The dtype that a forward pass runs in."""

import jax

from sparcom_jax.errors import InputError


def compute_dtype(asked: str, stored: str) -> str:
    """The dtype that the forward pass runs in.

    Args:
      asked: `auto`, or a dtype's name.
      stored: the checkpoint's dtype.

    Raises:
      InputError: the dtype is not one that the decoder runs in.
    """
    if asked == "auto":
        return "float32" if jax.default_backend() == "cpu" else stored
    if asked not in ("float32", "bfloat16", "float16"):
        raise InputError(f"capture.dtype {asked!r} is not supported; supported: auto, float32, bfloat16, float16")
    return asked
