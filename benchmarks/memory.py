"""Measures the peak memory of capture and identify, as commands, on few and on many instructions.

python -m benchmarks.memory [--count=1200] [--times=20]

The many are the shipped instructions again and again; the model is the small dense one.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import sparcom_jax as sj
from benchmarks import ROOT, print_table, timed, workspace
from benchmarks.models import dense_small, read_texts


def write_instructions(file: Path, count: int) -> None:
    """So many of the shipped instructions, each under a name of its own."""
    rows = itertools.islice(itertools.cycle(sj.load_hexainst().rows), count)
    fields = ("category", "instruction")
    lines = [json.dumps({"id": f"r{i}"} | {field: row[field] for field in fields}) for i, row in enumerate(rows)]
    file.write_text("\n".join(lines))


def peak_megabytes(*command: str) -> float:
    """Peak memory of a launcher's process.

    Raises:
      RuntimeError: the command failed.
    """
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"failed: {' '.join(command)}")
    return usage.ru_maxrss / 1e3


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1200)
    parser.add_argument("--times", type=int, default=20)
    args = parser.parse_args()
    table = []
    with workspace(None) as work:
        source, model = dense_small(work / "hf", read_texts("hexainst", count=0)), work / "model"
        peak_megabytes("launch/convert.py", f"--source={source}", f"--output={model}")
        for count in (args.count, args.count * args.times):
            rows, run = work / f"{count}.jsonl", work / f"run-{count}"
            write_instructions(rows, count)
            capture = ("launch/capture.py", f"--model={model}", f"--instructions={rows}", f"--output={run}",
                       "--config.execution.batch_tokens=8192")  # fmt: skip
            seconds, capturing = timed(lambda capture=capture: peak_megabytes(*capture))
            identifying = peak_megabytes("launch/identify.py", f"--run={run}")
            table.append((f"{count:,}", f"{capturing:.0f}", f"{identifying:.0f}", f"{seconds:.0f}"))
    print_table(("instructions", "capture, MB", "identify, MB", "capture, s"), table)


if __name__ == "__main__":
    main()
