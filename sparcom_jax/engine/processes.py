"""The processes of a job: each captures its own instructions, and none depends on another.

They meet once, at the start, to learn how many they are and which is which.
"""

import re
import threading
from concurrent.futures import Future

import jax
import numpy as np
from jaxtyping import Bool

from sparcom_jax.errors import InputError
from sparcom_jax.progress import say

MEETING_SECONDS = 300
"""How long the processes of a job wait for each other, at the start."""


def join_processes(known: bool, coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Learns from the other processes of a job which one this is; afterwards none depends on another.

    `jax.process_index()` and `jax.process_count()` tell it from then on. To be called before anything else of JAX.

    Args:
      known: JAX knows the job by itself (TPU pods, SLURM, Open MPI); otherwise, and without what follows, this process
        is alone.
      coordinator: HOST:PORT at which process 0 is to listen.
      processes: how many there are.
      process: which one this is.

    Raises:
      InputError: the processes do not find each other.
    """
    if not known and coordinator is None:
        if processes is not None or process is not None:
            raise InputError("--processes and --process need --coordinator=HOST:PORT")
        return
    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise InputError(f"--coordinator={coordinator}: must be HOST:PORT")
    others = f"{processes or 'all'} processes at {coordinator}" if coordinator else "the other processes of the job"
    say(f"waiting for {others}, for up to {MEETING_SECONDS} s")
    met: Future[None] = Future()

    def meet() -> None:
        try:
            # Where its own time is over, JAX aborts the process.
            jax.distributed.initialize(coordinator, processes, process, initialization_timeout=2 * MEETING_SECONDS)
            met.set_result(None)
        except Exception as error:
            met.set_exception(error)

    threading.Thread(target=meet, daemon=True).start()  # so that this one can be interrupted
    try:
        met.result(MEETING_SECONDS)
        jax.local_devices()  # the backend reads the numbers of the processes as it starts
        # Whoever stays connected is ended as soon as another one dies.
        jax.distributed.shutdown()
    except TimeoutError as error:
        raise InputError(f"waited {MEETING_SECONDS} s for {others}; not all of them came") from error
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the processes of the job do not find each other: {error}; where JAX does not know the job, give each of "
            f"them --coordinator=HOST:PORT --processes=COUNT --process=NUMBER"
        ) from error


def own_blocks(done: Bool[np.ndarray, "I"], size: int) -> list[slice]:
    """The blocks of instructions that this process is to make: every one of its share of which something is missing.

    Args:
      done: which instructions are made.
      size: instructions of a block.
    """
    blocks = [slice(start, min(start + size, len(done))) for start in range(0, len(done), size)]
    return [block for block in blocks[jax.process_index() :: jax.process_count()] if not done[block].all()]
