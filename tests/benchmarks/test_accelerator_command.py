"""The command that tells all about an accelerator: whole on CPU, and when its parts die, hang or are cut off."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.accelerator import __main__ as command
from benchmarks.accelerator.record import AT_LEAST, Record
from benchmarks.accelerator.summary import Summary

ROOT = Path(__file__).resolve().parents[2]
ABSENT = ("altair", "vl_convert", "ml_collections", "zarr", "xarray", "gguf", "accelerate", "peft", "beartype")


def start(*flags: str, **more: Any) -> "subprocess.Popen[str]":
    environment = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    return subprocess.Popen([sys.executable, "-m", "benchmarks.accelerator", *flags], cwd=ROOT, text=True,
                            env=environment | more, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def test_everything_in_small_without_what_a_lent_machine_lacks(tmp_path: Path) -> None:
    """On two idle cores it takes less than a minute; beside other tests it may take as long as it needs."""
    names = ", ".join(repr(name) for name in ABSENT)
    (tmp_path / "sitecustomize.py").write_text(f"import sys\nsys.modules |= dict.fromkeys([{names}])\n")
    output = tmp_path / "found.json"
    process = start("--seconds=3600", f"--json={output}", PYTHONPATH=str(tmp_path))
    table, progress = process.communicate(timeout=600)
    found = json.loads(output.read_text())
    assert process.returncode == 0, (found["failures"], found["skipped"], progress[-2000:])
    assert found["right"]
    assert found["parts"] == dict.fromkeys(command.PARTS, True)
    figures = {(one["part"], one["name"]): one for one in found["figures"]}
    assert {part for part, _ in figures} == set(command.PARTS)
    strict = [one for one in found["figures"] if one["strict"]]
    assert len(strict) > 30
    assert all(one["met"] for one in strict)
    for part in ("dense", "moe", "gpt_oss"):
        capture = figures[part, "capture, instructions of HexaInst"]
        hooks = figures[f"{part}-hooks", "torch hooks"]
        ratio = figures[part, "capture of a device over torch with hooks"]
        assert capture["unit"] == hooks["unit"] == "tokens/s"
        assert ratio["value"] == pytest.approx(capture["value"] / hooks["value"])
        assert capture["low"] <= capture["value"] <= capture["high"]
    assert f"{len(command.PARTS)} of {len(command.PARTS)} parts done" in table


def child_that(program: str) -> Any:
    """Stands in for a part: a program that is given the parts, the file of lines, and the end."""
    head = "import json, os, sys, time\nparts, lines = sys.argv[1].split(','), sys.argv[2]\n"
    head += "def say(kind, part, **more):\n    with open(lines, 'a') as file:\n"
    head += "        times = {'at': time.time(), 'until': time.time()}\n"
    head += "        file.write(json.dumps({'kind': kind, 'part': part, **times, **more}) + '\\n')\n"

    def command_of(parts: list[str], lines: Path, until: float, trace: Path | None) -> list[str]:
        del trace
        return [sys.executable, "-c", head + program, ",".join(parts), str(lines), str(until)]

    return command_of


def run(program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, seconds: float = 60.0) -> dict[str, Any]:
    monkeypatch.setattr(command, "child", child_that(program))
    lines = tmp_path / "lines"
    lines.touch()
    parts = ["machine", "experts", "dense"]
    command.run_all(parts, lines, time.time() + seconds, None, tmp_path / "found.json")
    command.save(lines, parts, tmp_path / "found.json")
    found: dict[str, Any] = json.loads((tmp_path / "found.json").read_text())
    return found


def test_a_part_that_dies_costs_itself_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = run("""
say('begun', parts[0])
if parts[0] == 'experts':
    say('fact', 'experts', name='seen', value='before it died')
    os._exit(9)
say('done', parts[0])
""", monkeypatch, tmp_path)  # fmt: skip
    assert found["parts"] == {"machine": True, "experts": False, "dense": True}
    (failure,) = found["failures"]
    assert (failure["part"], failure["value"]) == ("experts", "its process ended before it was done: exit code 9")
    assert found["facts"] == [{"part": "experts", "name": "seen", "value": "before it died"}]
    assert not found["right"]


def test_a_process_that_never_begins_is_not_started_for_ever(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = run("sys.exit(3)", monkeypatch, tmp_path)
    assert [one["part"] for one in found["failures"]] == ["machine", "experts", "dense"]


def test_a_part_that_hangs_is_ended_and_the_next_begun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "GRACE_SECONDS", 1.0)
    found = run("""
say('begun', parts[0])
if parts[0] == 'machine':
    time.sleep(100)
say('done', parts[0])
""", monkeypatch, tmp_path)  # fmt: skip
    assert found["parts"] == {"machine": False, "experts": True, "dense": True}
    assert "it took too long" in found["failures"][0]["value"]


def test_the_end_of_the_time_leaves_parts_undone_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = run("say('begun', parts[0])\ntime.sleep(100)", monkeypatch, tmp_path, seconds=1.0)
    assert "it took too long" in found["failures"][0]["value"]
    assert [one["part"] for one in found["skipped"]] == ["experts", "dense"]
    assert not found["right"]


def test_what_was_found_is_kept_when_it_is_ended(tmp_path: Path) -> None:
    output = tmp_path / "found.json"
    process = start("--parts=machine,dense", f"--json={output}")
    while not (output.exists() and "products" in output.read_text()):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    table, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "products" in table
    assert "products" in output.read_text()
    assert not json.loads(output.read_text())["right"]


@pytest.mark.parametrize("flag", ["--parts=dance", "--seconds=0"])
def test_bad_flags(flag: str) -> None:
    process = start(flag)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert flag.partition("=")[2] in errors


def test_goals(tmp_path: Path) -> None:
    lines = tmp_path / "lines"
    record = Record("machine", lines, time.time() + 100)
    record.figure("error", 1e-3, "", goal=1e-4, strict=True)
    record.figure("rate", 3.0, "tokens/s", spread=[2.0, 3.0, 5.0], goal=2.5, bound=AT_LEAST)
    assert record.known("machine", "rate") == 3.0
    assert record.known("machine", "other") is None
    assert record.attempt("division", lambda: 1 / 0) is None
    assert record.attempt("division", lambda: 1 / 0, optional=True) is None
    assert record.attempt("late", lambda: 1, needs_seconds=1e6) is None
    found = Summary(lines, ["machine"]).to_json()
    assert [one["met"] for one in found["figures"]] == [False, True]
    assert (found["figures"][1]["low"], found["figures"][1]["high"]) == (2.0, 5.0)
    assert [len(found[kind]) for kind in ("failures", "optional", "skipped")] == [1, 1, 1]
    assert found["failures"][0]["value"] == "ZeroDivisionError: division by zero"
    assert not found["right"]
