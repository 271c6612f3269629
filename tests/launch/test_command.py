"""How a command ends after Ctrl-C, whatever it is at."""

import signal
import subprocess
import sys

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
