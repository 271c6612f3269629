"""One writer at a time: a lock that its process cannot leave behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparcom_jax.errors import InputError


@contextmanager
def only_writer(location: str | Path, process: int) -> Iterator[None]:
    """Keeps a second job from writing the same run; the system takes the lock from a process that has ended.

    The lock is a file beside the run, gone when the writer is. Of a run at `gs://` or `s3://` there is none.

    Args:
      location: the run.
      process: which of the processes of its job the writer is.

    Raises:
      InputError: another job writes the run.
    """
    if "://" in str(location):
        yield
        return
    run = Path(location).expanduser().absolute()
    run.parent.mkdir(parents=True, exist_ok=True)
    path = run.with_name(f".{run.name}.writer{process}")
    file = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not path.exists() or path.stat().st_ino != os.fstat(file).st_ino:
            raise BlockingIOError  # its last owner has just deleted it, and a third may have made another
    except BlockingIOError:
        os.close(file)
        raise InputError(f"{location}: another capture is writing it") from None
    try:
        yield
    finally:
        path.unlink()
        os.close(file)
