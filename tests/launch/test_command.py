"""How a command ends after Ctrl-C, whatever it is at."""

import signal
import subprocess
import sys

import pytest

from sparcom_jax.command import _wrapped
from sparcom_jax.config_flag import WHOLE_STUDY, ConfigFlag

LINE = "interrupted: run the same command again to go on\n"

# Waits for work in threads that do not heed that it should end.
WAITS = """
import time
from concurrent.futures import ThreadPoolExecutor
from sparcom_jax.command import run_command

def main():
    calls = [ThreadPoolExecutor(2).submit(time.sleep, 600) for _ in range(4)]
    print("begun", flush=True)
    calls[0].result()

run_command(main)
"""
# Is interrupted where Python drops exceptions, in the callback of something that has gone.
DROPS = """
import os, signal, time, weakref
from sparcom_jax.command import run_command

class Thing:
    pass

def main():
    thing = Thing()
    reference = weakref.ref(thing, lambda _: (os.kill(os.getpid(), signal.SIGINT), time.sleep(5)))
    del thing
    print("went on")

run_command(main)
"""


def test_threads_that_go_on_do_not_hold_a_command_that_is_interrupted() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAITS], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, LINE)


def test_an_interruption_is_not_lost() -> None:
    done = subprocess.run([sys.executable, "-c", DROPS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", LINE)


@pytest.mark.parametrize("columns", [70, 80, 100])
def test_help_is_wrapped_for_a_terminal(columns: int) -> None:
    whole = ConfigFlag(*WHOLE_STUDY).help()
    wrapped = _wrapped(whole, columns)
    assert max(map(len, wrapped.splitlines())) <= columns
    assert wrapped.split() == whole.split()
    starts = [line.split("=")[0] for line in wrapped.splitlines() if line.startswith("  --config.")]
    assert starts == [line.split("=")[0] for line in whole.splitlines() if line.startswith("  --config.")]


def test_what_goes_on_stands_below_where_it_begins() -> None:
    line = "  --config.ablate.how=zero  neurons become zero, alpha times their value (scale), their mean, or resample"
    flag, gap = "  --config.ablate.how=zero  ", " " * 28
    beside = f"{flag}neurons become zero, alpha times their\n{gap}value (scale), their mean, or resample"
    assert _wrapped(line, 70) == beside
    below = [
        flag.rstrip(),
        "      neurons become zero, alpha times their value (scale),",
        "      their mean, or resample",
    ]
    assert _wrapped(line, 60).splitlines() == below
