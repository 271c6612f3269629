"""Tells all about an accelerator, or in a small form about the CPU where there is none.

python -m benchmarks.accelerator [--seconds=480] [--json=FILE] [--parts=machine,dense,...] [--trace=DIR]

Each part runs in a process of its own: one that dies, hangs or fills the memory costs its own figures only. What was
found until then is kept, also when the time runs out or somebody presses Ctrl-C. Exit code 0 says that every part was
done and every number right.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import ROOT
from benchmarks.accelerator.summary import Summary

PARTS = {
    "machine": 1.0, "parity-llama": 2.0, "parity-qwen2_moe": 3.0, "parity-gemma2": 2.0, "parity-deepseek_v2": 3.0,
    "parity-gpt_oss": 3.0, "experts": 2.0, "dense": 4.0, "dense-hooks": 1.5, "moe": 4.0, "moe-hooks": 2.0,
    "gpt_oss": 4.0, "gpt_oss-hooks": 2.0,
}  # fmt: skip
"""The parts in order of what is to be known first, and how much of the time each may have, relative to the others."""
GRACE_SECONDS = 20.0
"""What a part may take longer than it should before it is ended; less where the whole time ends before."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=480.0, help="how long it may take")
    parser.add_argument("--json", type=Path, help="where everything is written that was found")
    parser.add_argument("--parts", default=",".join(PARTS), help="which parts, of " + ", ".join(PARTS))
    parser.add_argument("--trace", type=Path, help="directory for a profile of each capture")
    args = parser.parse_args()
    names = args.parts.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        parser.error(f"--parts: {unknown[0]!r} is not one of {', '.join(PARTS)}")
    if args.seconds <= 0:
        parser.error(f"--seconds={args.seconds}: must be positive")
    parts = [name for name in PARTS if name in names]
    until = time.time() + args.seconds
    with tempfile.TemporaryDirectory(prefix="sparcom-accelerator-") as directory:
        lines = Path(directory) / "lines.jsonl"
        lines.touch()
        interrupted = False
        try:
            run_all(parts, lines, until, args.trace)
        except KeyboardInterrupt:
            interrupted = True
        summary = Summary(lines, parts)
    if args.json:
        content = summary.to_json() | {"seconds": args.seconds, "interrupted": interrupted}
        part = args.json.with_name(args.json.name + ".partial")
        part.write_text(json.dumps(content, indent=1) + "\n")
        part.replace(args.json)
    summary.print()
    return 0 if summary.right and not interrupted else 1


def run_all(parts: list[str], lines: Path, until: float, trace: Path | None) -> None:
    """Starts processes until every part has had its turn.

    A process is given all parts that are left. It does the first one, and goes on only where it is safe to
    (`child.py`); so the next process begins with the first part that nobody has begun.
    """
    left = list(parts)
    while left:
        if time.time() > until:
            note(lines, "skipped", left.pop(0), "the time was over")
            continue
        command = [sys.executable, "-m", "benchmarks.accelerator.child", ",".join(left), str(lines), str(until)]
        process = subprocess.Popen(command + ([str(trace)] if trace else []), cwd=ROOT, env=environment(),
                                   stdout=sys.stderr)  # fmt: skip
        ended = watch(process, lines, until)
        begun = [one["part"] for one in read(lines) if one["kind"] == "begun"]
        done = [one["part"] for one in read(lines) if one["kind"] == "done"]
        if not any(name in begun for name in left):
            note(lines, "failure", left[0], f"its process ended before it began: {ended}")
            begun.append(left[0])
        for name in [name for name in left if name in begun and name not in done]:
            note(lines, "failure", name, f"its process ended before it was done: {ended}")
        left = [name for name in left if name not in begun]


def watch(process: "subprocess.Popen[bytes]", lines: Path, until: float) -> str:
    """Waits for a process, and ends it where a part takes too long; returns how it ended."""
    try:
        while process.poll() is None:
            time.sleep(0.2)
            now = time.time()
            late = [one["until"] + GRACE_SECONDS for one in read(lines) if one["kind"] == "begun"]
            if now > min([until + 2.0, *late[-1:]]):
                return "it took too long"
        return f"exit code {process.returncode}"
    finally:
        process.kill()
        process.wait()


def environment() -> dict[str, str]:
    """JAX takes memory as it needs it, because torch is on the same card; nobody asks the network."""
    return os.environ | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def note(lines: Path, kind: str, part: str, value: str) -> None:
    """Takes down what happened to a part that cannot say it itself."""
    with lines.open("a") as file:
        file.write(json.dumps({"kind": kind, "part": part, "name": "the part", "value": value}) + "\n")


def read(lines: Path) -> list[dict[str, Any]]:
    """All lines; the last one may still be in the making."""
    return [json.loads(line) for line in lines.read_text().splitlines(keepends=True) if line.endswith("\n")]


if __name__ == "__main__":
    sys.exit(main())
