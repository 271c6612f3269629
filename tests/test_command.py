"""How a command ends after Ctrl-C, whatever its threads are at."""

import signal
import subprocess
import sys

import pytest

# A command that waits for work in threads, and whose threads do not heed that it should end.
WAITS = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from sparcom_jax import command

command.GRACE_SECONDS = {grace}

def main():
    pool = ThreadPoolExecutor(2)
    calls = [pool.submit(time.sleep, 600) for _ in range(4)]
    try:
        print("begun", flush=True)
        calls[0].result()
    finally:
        print("unwinds", flush=True)
        pool.shutdown(cancel_futures=True)

command.run_command(main)
"""


@pytest.mark.parametrize(("grace", "signals"), [(0.5, 1), (600, 2)], ids=["once", "twice"])
def test_threads_that_go_on_do_not_hold_a_command_that_is_interrupted(grace: float, signals: int) -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS.format(grace=grace)], stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    for wanted in ("begun\n", "unwinds\n")[:signals]:
        assert process.stdout.readline() == wanted
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted: run the same command again to go on\n")
