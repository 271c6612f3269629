"""One job at a time: locks that a process cannot leave behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparcom_jax.errors import InputError
from sparcom_jax.progress import say


@contextmanager
def only_writer(location: str | Path, process: int, processes: int) -> Iterator[None]:
    """Keeps a second job from writing the same run; the system takes the lock from a process that has ended.

    Each process of a job has a lock, a file beside the run, which is gone when the process is. A job of another size is
    told by the names of its files. Of a run at `gs://` or `s3://` there is no lock.

    Args:
      location: the run.
      process: which of the processes of its job the writer is.
      processes: how many they are.

    Raises:
      InputError: another job writes the run, or files cannot be made there.
    """
    if "://" in str(location):
        yield
        return
    run = Path(location).expanduser().resolve()
    prefix, size = f".{run.name}.writer", f"of{processes}"
    path = run.with_name(f"{prefix}{process}{size}")
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        file = _lock(path)
        others = [other for other in run.parent.iterdir() if other.name.startswith(prefix)]
        others = [other for other in others if not other.name.endswith(size)]
        taken = file is None or not all(_unused(other) for other in others)
    except OSError as error:
        raise InputError(f"{location}: cannot be written: {error}") from error
    if taken or file is None:
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)
        raise InputError(f"{location}: another capture is writing it")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def _lock(path: Path) -> int | None:
    """An open file that this process has locked; None where another one has."""
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(file).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass  # it is locked, or its last owner has deleted it in between
    except OSError as error:
        say(f"{path}: this file system has no locks ({error}); see to it that no second capture writes the same run")
        return file
    os.close(file)
    return None


def _unused(path: Path) -> bool:
    """Whether nobody holds a lock; a file that a killed process left is deleted."""
    file = _lock(path)
    if file is not None:
        path.unlink(missing_ok=True)
        os.close(file)
    return file is not None
