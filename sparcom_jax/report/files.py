"""Writes what the report leaves on disk: each file whole or not at all."""

import os
from pathlib import Path

from sparcom_jax.errors import InputError


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by way of a temporary one beside it.

    Args:
      path: the file; its directory is made.
      content: what it holds.

    Raises:
      InputError: it cannot be written there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error
