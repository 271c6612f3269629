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


def require_space(output: Path, size: int) -> None:
    """Refuses a disk without room: long work is not to end there, and the store says so in many lines.

    Args:
      output: what is to be made, there already or not.
      size: its bytes, at least.

    Raises:
      InputError: there are fewer.
    """
    free = shutil.disk_usage(next(place for place in (output, *output.absolute().parents) if place.exists())).free
    if size > free:
        raise InputError(f"{output}: needs {_shown(size)} at least, and there are {_shown(free)} free")


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


@contextmanager
def whole_directory(output: Path, size: int = 0) -> Iterator[Path]:
    """Makes a directory.

    Args:
      output: the directory, which is not there yet.
      size: bytes that it will have at least.

    Yields:
      An empty one beside it, which takes its name when all is well, and else is deleted.

    Raises:
      InputError: it cannot be written.
    """
    require_space(output, size)
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
