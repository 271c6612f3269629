"""Every launcher through its command line, as a user would call it: results, one-line errors, exit codes, kill -9."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from tests import checkpoints

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def work(hf_llama: Path, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two checkpoints and an instruction file."""
    directory = tmp_path_factory.mktemp("work")
    (directory / "base").symlink_to(hf_llama)
    checkpoints.save_model(directory / "tuned", "llama", seed=1)
    (directory / "rows.jsonl").symlink_to(instruction_file)
    return directory


def command(launcher: str, *flags: str) -> list[str]:
    return [sys.executable, str(ROOT / "launch" / f"{launcher}.py"), *flags]


def environment(work: Path) -> dict[str, str]:
    return os.environ | {"XLA_FLAGS": "", "JAX_COMPILATION_CACHE_DIR": str(work / "xla")}


def launch(work: Path, launcher: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(launcher, *flags), cwd=work, capture_output=True, text=True, env=environment(work))


def done(work: Path, launcher: str, *flags: str) -> str:
    result = launch(work, launcher, *flags)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_whole_chain(work: Path) -> None:
    for name in ("base", "tuned"):
        assert done(work, "convert", f"--source={name}", f"--output=models/{name}") == f"models/{name}"
        done(work, "capture", f"--model=models/{name}", "--instructions=rows.jsonl", f"--output=runs/{name}",
             "--config=" + str(ROOT / "configs/default.py"), "--config.capture.batch_tokens=512")  # fmt: skip
        done(work, "identify", f"--run=runs/{name}", "--epsilon=0.1", "--ties=exact")
    done(work, "evaluate", "--run=runs/base", "--output=results/evaluate", "--permutations=50", "--bootstraps=50")
    done(work, "compare", "--base=runs/base", "--tuned=runs/tuned", "--output=results/compare", "--permutations=50",
         "--bootstraps=50")  # fmt: skip
    done(work, "ablate", "--model=models/base", "--run=runs/base", "--output=results/ablate",
         "--config.ablate.per_category=2", "--config.ablate.draws=1", "--config.ablate.rho=0.3")  # fmt: skip
    assert done(work, "report", "--results=results", "--output=report.html").endswith("report.html")
    page = (work / "report.html").read_text()
    assert all(f"<h2>{kind}/{kind}</h2>" in page or kind in page for kind in ("evaluate", "compare", "ablate"))
    run = sj.open_run(work / "runs/base")
    run.require_complete()
    assert run.attributes["capture"]["batch_tokens"] == 512
    assert (sj.open_sets(run, "frequency").size("mlp") == 24).all()


def test_sets_in_the_place_of_counts(work: Path) -> None:
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    done(work, "capture", "--model=models/base", "--instructions=rows.jsonl", "--output=runs/sets",
         "--config.capture.keep=sets", "--config.identify.epsilon=0.1", "--config.identify.ties=exact")  # fmt: skip
    done(work, "identify", "--run=runs/sets")
    assert (sj.open_sets(sj.open_run(work / "runs/sets"), "frequency").size("mlp") == 24).all()
    result = launch(work, "identify", "--run=runs/sets", "--epsilon=0.2")
    message = "runs/sets: keeps the sets of epsilon 0.1, not counts that epsilon 0.2 could cut"
    assert (result.returncode, result.stderr.strip()[: len(message) + 7]) == (2, f"error: {message}")


def test_killed_at_random_and_started_again(work: Path) -> None:
    """SIGKILL at random moments of one capture; what it becomes in the end is what an undisturbed one is."""
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    flags = ("--model=models/base", "--instructions=rows.jsonl", "--config.capture.rows_per_block=2",
             "--config.capture.batch_tokens=512")  # fmt: skip
    done(work, "capture", *flags, "--output=runs/whole")
    chance, kills = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(command("capture", *flags, "--output=runs/killed"), cwd=work, env=environment(work),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 60
        while process.poll() is None and not (work / "runs/killed/zarr.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    done(work, "capture", *flags, "--output=runs/killed")
    whole, killed = sj.open_run(work / "runs/whole"), sj.open_run(work / "runs/killed")
    killed.require_complete()
    for name in ("mlp/positive_count", "instruction/token_count", "instruction/category", "mlp/layer"):
        np.testing.assert_array_equal(whole.read(name), killed.read(name))
    assert whole.instructions == killed.instructions


BAD = {
    "no such source": (("convert", "--source=nowhere", "--output=x"), "nowhere: no such directory"),
    "a flag that is not there": (("convert", "--sauce=base"), "sauce"),
    "a flag that is missing": (("identify",), "--run"),
    "a value that is no number": (("identify", "--run=r", "--epsilon=much"), "epsilon"),
    "an argument that is no flag": (("identify", "--run=r", "extra"), "unexpected argument 'extra'"),
    "no such model": (("capture", "--model=nowhere", "--instructions=rows.jsonl", "--output=x"), "nowhere: not a conv"),
    "no such run": (("identify", "--run=nowhere"), "nowhere: not a run"),
    "no such config field": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture.max_token=3"),
        "max_token",
    ),
    "a config value of another type": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture.max_tokens=few"), "few",
    ),
    "no such config": (("analyze", "--config=nowhere.py", "--output=x"), "nowhere.py"),
    "an empty study": (("analyze", f"--config={ROOT / 'configs/default.py'}", "--output=x"), "pairs is empty"),
    "no results": (("report", "--results=nowhere", "--output=x.html"), "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, work: Path) -> None:
    flags, message = BAD[case]
    result = launch(work, *flags)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 2, result.stderr
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.stderr
    assert not (work / "x").exists()


def test_a_malformed_row_is_named(work: Path) -> None:
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    (work / "bad.jsonl").write_text(json.dumps({"id": "a", "category": "X", "instruction": ""}) + "\n")
    result = launch(work, "capture", "--model=models/base", "--instructions=bad.jsonl", "--output=y")
    assert result.returncode == 2
    message = "error: bad.jsonl:1: field 'instruction' must be a non-empty string"
    assert result.stderr.strip().splitlines()[-1] == message
    assert not (work / "y").exists()
