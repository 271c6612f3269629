"""Several processes share a capture: the same counts as one, whichever of them is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.store.run import Run, open_run
from tests.capture.test_capture import same
from tests.ports import free_port

LAUNCHER = Path(__file__).resolve().parents[2] / "launch" / "capture.py"
SETTINGS, EXECUTION = CaptureSettings(rows_per_block=4), ExecutionSettings(batch_tokens=512)
SECONDS = 300


@pytest.fixture(scope="module")
def alone(moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = tmp_path_factory.mktemp("alone") / "run"
    return capture(moe, load_instructions(instruction_file), run, SETTINGS, execution=EXECUTION)


def start(model: ModelDir, file: Path, run: Path, processes: int, log: Path) -> list[subprocess.Popen[bytes]]:
    port = free_port()
    flags = [f"--model={model.path}", f"--instructions={file}", f"--output={run}", f"--processes={processes}",
             f"--coordinator=127.0.0.1:{port}", "--config.execution.batch_tokens=512",
             "--config.capture.rows_per_block=4"]  # fmt: skip
    environment = os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(run.parents[1] / "xla"),
                                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}  # fmt: skip
    started = []
    for process in range(processes):
        with (log / f"{process}.log").open("wb") as output:
            started.append(subprocess.Popen([sys.executable, str(LAUNCHER), *flags, f"--process={process}"],
                                            env=environment, stdout=output, stderr=output))  # fmt: skip
    return started


def finish(started: list[subprocess.Popen[bytes]]) -> list[int]:
    """Exit codes; whatever runs too long is ended."""
    deadline = time.monotonic() + SECONDS
    try:
        return [process.wait(max(deadline - time.monotonic(), 0.1)) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.mark.parametrize("processes", [2, 4])
def test_counts_are_those_of_one_process(
    processes: int, moe: ModelDir, instruction_file: Path, alone: Run, tmp_path: Path
) -> None:
    assert finish(start(moe, instruction_file, tmp_path / "run", processes, tmp_path)) == [0] * processes
    run = open_run(tmp_path / "run")
    assert run.manifest.devices.processes == processes
    run.require_complete()
    same(run, alone)


@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_finish_and_a_rerun_completes(
    victim: int, moe: ModelDir, instruction_file: Path, alone: Run, tmp_path: Path
) -> None:
    started = start(moe, instruction_file, tmp_path / "run", 2, tmp_path)
    deadline = time.monotonic() + SECONDS
    # Both have met by the time the run exists.
    while not (tmp_path / "run" / "zarr.json").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    started[victim].send_signal(signal.SIGKILL)
    codes = finish(started)
    assert codes[victim] == -signal.SIGKILL
    assert codes[1 - victim] == 0, (tmp_path / f"{1 - victim}.log").read_text()
    left = int((open_run(tmp_path / "run").done == 0).sum())
    assert left
    assert f"{left} instructions are left to the others" in (tmp_path / f"{1 - victim}.log").read_text()
    assert finish(start(moe, instruction_file, tmp_path / "run", 1, tmp_path)) == [0]
    again = open_run(tmp_path / "run")
    again.require_complete()
    same(again, alone)


def test_numbers_without_a_coordinator(tmp_path: Path) -> None:
    flags = ["--model=m", "--instructions=i", "--output=o", "--processes=2", "--process=0"]
    result = subprocess.run([sys.executable, str(LAUNCHER), *flags], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "error: --processes and --process need --coordinator=HOST:PORT"


def test_a_job_that_nobody_knows(tmp_path: Path) -> None:
    flags = ["--model=m", "--instructions=i", "--output=o", "--distributed"]
    result = subprocess.run([sys.executable, str(LAUNCHER), *flags], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "the processes of the job do not find each other" in result.stderr.splitlines()[-1]
    assert "--coordinator=HOST:PORT" in result.stderr


# A process of a job whose others do not come.
ALONE = """
import sys
from sparcom_jax import command
from sparcom_jax.engine import processes

coordinator, sys.argv[1:] = sys.argv[1], []
processes.MEETING_SECONDS = {seconds}
command.run_command(lambda: processes.join_processes(False, coordinator, 2, 1))
"""


def test_others_that_do_not_come() -> None:
    coordinator = f"127.0.0.1:{free_port()}"
    result = subprocess.run(
        [sys.executable, "-c", ALONE.format(seconds=1), coordinator], capture_output=True, text=True
    )
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"waiting for 2 processes at {coordinator}, for up to 1 s",
        f"error: waited 1 s for 2 processes at {coordinator}; not all of them came",
    ]


def test_waiting_for_others_can_be_interrupted() -> None:
    coordinator = f"127.0.0.1:{free_port()}"
    process = subprocess.Popen([sys.executable, "-c", ALONE.format(seconds=600), coordinator], stderr=subprocess.PIPE,
                               text=True)  # fmt: skip
    assert process.stderr is not None
    assert process.stderr.readline() == f"waiting for 2 processes at {coordinator}, for up to 600 s\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "interrupted: run the same command again to go on\n")


def test_a_coordinator_without_a_port(tmp_path: Path) -> None:
    flags = ["--model=m", "--instructions=i", "--output=o", "--coordinator=host", "--processes=2", "--process=0"]
    result = subprocess.run([sys.executable, str(LAUNCHER), *flags], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (2, "error: --coordinator=host: must be HOST:PORT\n")
