"""A directory that appears whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from sparcom_jax.errors import InputError


def require_absent(output: Path) -> None:
    """Refuses a directory that is there.

    Raises:
      InputError: it is.
    """
    if output.exists():
        raise InputError(f"{output}: exists already; choose another --output or delete it")


@contextmanager
def whole_directory(output: Path) -> Iterator[Path]:
    """Makes a directory.

    Args:
      output: the directory, which is not there yet.

    Yields:
      An empty one beside it, which takes its name when all is well, and else is deleted.

    Raises:
      InputError: it cannot be written.
    """
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        partial.replace(output)
    except (OSError, SafetensorError) as error:
        raise InputError(f"{output}: cannot be written ({getattr(error, 'strerror', None) or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
