"""The dtype that a forward pass runs in."""

import jax


def compute_dtype(asked: str, stored: str) -> str:
    """The dtype that the forward pass runs in.

    Args:
      asked: as in `ExecutionSettings`.
      stored: the checkpoint's dtype.
    """
    if asked != "auto":
        return asked
    return "float32" if jax.default_backend() == "cpu" else stored
