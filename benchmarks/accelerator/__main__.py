"""Tells all about an accelerator, or in a small form about the CPU where there is none.

python -m benchmarks.accelerator [--seconds=480] [--json=FILE] [--parts=machine,dense,...] [--trace=DIR]

Each part runs in a process of its own: one that dies, hangs or fills the memory costs its own figures only. What was
found until then is kept, also when the time runs out or somebody presses Ctrl-C. Exit code 0 says that every part was
done and every number right.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import ROOT
from benchmarks.accelerator.record import add_line, read_lines
from benchmarks.accelerator.summary import Summary

PARTS = {
    "machine": 1.0, "parity-llama": 3.0, "parity-qwen2_moe": 4.0, "parity-gemma2": 3.0, "parity-deepseek_v2": 4.0,
    "parity-gpt_oss": 4.0, "experts": 2.0, "dense": 4.0, "dense-hooks": 1.5, "moe": 4.0, "moe-hooks": 2.0,
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
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        interrupted = False
        try:
            run_all(parts, lines, until, args.trace, args.json)
        except KeyboardInterrupt:
            interrupted = True
        summary = Summary(lines, parts)
        save(lines, parts, args.json)
    summary.print()
    return 0 if summary.right and not interrupted else 1


def run_all(parts: list[str], lines: Path, until: float, trace: Path | None, output: Path | None) -> None:
    """Starts processes until every part has had its turn.

    A process is given all parts that are left. It does the first one, and goes on only where it is safe to
    (`child.py`); so the next process begins with the first part that nobody has begun.

    Args:
      parts: in order.
      lines: where the parts take down what they find.
      until: when all must be over.
      trace: directory for profiles.
      output: the JSON file, which is written again whenever something was found; None where none is asked for.
    """
    left = list(parts)
    while left:
        if time.time() > until:
            add_line(lines, "skipped", part=left.pop(0), name="the part", value="the time was over")
            continue
        process = subprocess.Popen(child(left, lines, until, trace), cwd=ROOT, env=environment(), stdout=sys.stderr)
        ended = watch(process, lines, until, partial(save, lines, parts, output))
        begun, done = ({one["part"] for one in read_lines(lines) if one["kind"] == kind} for kind in ("begun", "done"))
        if not begun.intersection(left):
            add_line(lines, "failure", part=left[0], name="the part",
                     value=f"its process ended before it began: {ended}")  # fmt: skip
            del left[0]
        for name in [name for name in left if name in begun]:
            if name not in done:
                add_line(lines, "failure", part=name, name="the part",
                         value=f"its process ended before it was done: {ended}")  # fmt: skip
            left.remove(name)


def child(parts: list[str], lines: Path, until: float, trace: Path | None) -> list[str]:
    """The command of a process that does parts."""
    command = [sys.executable, "-m", "benchmarks.accelerator.child", ",".join(parts), str(lines), str(until)]
    return command + ([str(trace)] if trace else [])


def watch(process: "subprocess.Popen[bytes]", lines: Path, until: float, keep: Callable[[], None]) -> str:
    """Waits for a process, keeps what it finds, and ends it where a part takes too long; returns how it ended."""
    size = 0
    try:
        while process.poll() is None:
            time.sleep(0.2)
            if lines.stat().st_size > size:
                size = lines.stat().st_size
                keep()
            now = time.time()
            late = [one["until"] + GRACE_SECONDS for one in read_lines(lines) if one["kind"] == "begun"]
            if now > min([until + 2.0, *late[-1:]]):
                return "it took too long"
        return f"exit code {process.returncode}"
    finally:
        process.kill()
        process.wait()


def save(lines: Path, parts: list[str], output: Path | None) -> None:
    """Writes what was found so far; the file is whole at any time."""
    if output:
        partial_file = output.with_name(output.name + ".partial")
        partial_file.write_text(json.dumps(Summary(lines, parts).to_json(), indent=1) + "\n")
        partial_file.replace(output)


def environment() -> dict[str, str]:
    """JAX takes memory as it needs it, because torch is on the same card; nobody asks the network.

    The CPU is among JAX's devices in any case, as one of the oracles.
    """
    platforms = os.environ.get("JAX_PLATFORMS", "")
    with_cpu = {"JAX_PLATFORMS": f"{platforms},cpu"} if platforms and "cpu" not in platforms else {}
    return (
        os.environ
        | with_cpu
        | {
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.9",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    )


if __name__ == "__main__":
    sys.exit(main())
