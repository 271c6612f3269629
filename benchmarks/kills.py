"""Kills captures or trainings at random moments, starts them again, and compares what comes out with undisturbed ones.

python -m benchmarks.kills [--command=capture|finetune] [--kills=20] [--seed=0] [--earliest=0]

Every trial's command is killed with SIGKILL, at a moment drawn evenly from the time that a whole one takes; each
restart is killed with probability 1/2, too. In the end all arrays of a run are decoded and compared byte for byte, as
are the manifest and instructions.jsonl; of a training, the parameters of the tuned model by their digest, and the
tables. Starting Python takes a good part of the time: `--earliest` leaves it out.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from benchmarks import ROOT, print_table, workspace
from benchmarks.models import CATEGORY, CHECKPOINTS, read_texts
from sparcom_jax.convert.model_dir import convert, open_model
from sparcom_jax.errors import InputError
from sparcom_jax.results.summary import SUMMARY
from sparcom_jax.results.tuning import TUNING_TABLES
from sparcom_jax.store.run import open_run
from sparcom_jax.tune.finetune import TRAINING

KILLED_AGAIN = 0.5
IDENTICAL = "identical"


class Kill(NamedTuple):
    """One SIGKILL: seconds after the start of the process, and the rows or steps that were kept by then."""

    seconds: float
    done: int


@dataclass(frozen=True)
class Command:
    """The command that is killed.

    Attributes:
      name: `capture` or `finetune`.
      arguments: all but the output.
      environment: with a cache of compiled steps, so that restarts are quick.
      log: file that takes what it prints.
    """

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path

    def run(self, output: Path, kill_after: float | None = None) -> bool:
        """Runs it, at most for so many seconds.

        Returns:
          Whether it came to its end; False if it was killed.

        Raises:
          RuntimeError: it failed.
        """
        command = [sys.executable, f"launch/{self.name}.py", *self.arguments, f"--output={output}"]
        with self.log.open("wb") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)
            try:
                code = process.wait(kill_after)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                return False
        if code:
            raise RuntimeError(f"{self.name} ended with {code}:\n{self.log.read_text()}")
        return True

    def done(self, output: Path) -> int:
        """Rows that a run calls done, or steps of the last checkpoint; 0 where it was killed before there was any."""
        if self.name == "finetune":
            if (output / SUMMARY).exists():
                return int(json.loads((output / SUMMARY).read_text())["steps"])
            return max((int(path.name) for path in (output / TRAINING).glob("*") if path.name.isdigit()), default=0)
        try:
            return int(open_run(output).done.sum())
        except InputError:
            return 0

    def differences(self, output: Path, expected: Path) -> list[str]:
        """Names of what is not byte for byte the same."""
        return (differences if self.name == "capture" else tuned_differences)(output, expected)


def trial(command: Command, output: Path, moments: tuple[float, float], draw: random.Random) -> list[Kill]:
    """Runs with kills until the command comes to its end.

    Args:
      command: the command.
      output: the run that it writes.
      moments: the first and the last second in which the first kill can fall; later ones can fall from the start on.
      draw: source of the moments.

    Returns:
      The kills.
    """
    kills: list[Kill] = []
    earliest, latest = moments
    while not kills or draw.random() < KILLED_AGAIN:
        moment = draw.uniform(0.0 if kills else earliest, latest)
        if not command.run(output, moment):
            kills.append(Kill(moment, command.done(output)))
        elif kills:
            return kills
        else:
            shutil.rmtree(output)  # it ended before the moment came; a trial without a kill tells nothing
    command.run(output)
    return kills


def differences(output: Path, expected: Path) -> list[str]:
    """Names of the arrays and files of two runs that are not byte for byte the same."""
    runs = open_run(output), open_run(expected)
    names = sorted(_arrays(output) | _arrays(expected))
    found = []
    for name in names:
        if not all((path / name / "zarr.json").exists() for path in (output, expected)):
            found.append(f"{name} (missing)")
            continue
        one, other = (run.read(name) for run in runs)
        if (one.dtype, one.shape, one.tobytes()) != (other.dtype, other.shape, other.tobytes()):
            found.append(name)
    files = ("zarr.json", "instructions.jsonl")
    return found + [name for name in files if (output / name).read_bytes() != (expected / name).read_bytes()]


def tuned_differences(output: Path, expected: Path) -> list[str]:
    """Names of what differs between two trainings."""
    found = [] if open_model(output / "model").digest == open_model(expected / "model").digest else ["model"]
    tables = [table.name for table in TUNING_TABLES]
    return found + [name for name in tables if (output / name).read_bytes() != (expected / name).read_bytes()]


def _arrays(run: Path) -> set[str]:
    metadata = [path for path in run.rglob("zarr.json") if json.loads(path.read_text())["node_type"] == "array"]
    return {str(path.parent.relative_to(run)) for path in metadata}


def write_instructions(path: Path, count: int, draw: random.Random) -> None:
    """Writes pieces of the shipped instructions, of very different lengths."""
    texts = [text.split() for text in read_texts("hexainst", count=0)]
    with path.open("w", encoding="utf-8") as file:
        for row in range(count):
            words = draw.choice(texts)
            start = draw.randrange(len(words))
            text = " ".join(words[start : start + draw.randint(1, len(words))])
            line = {"id": f"r{row}", "category": f"{CATEGORY}{row % 3}", "instruction": text, "response": words[start]}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", choices=["capture", "finetune"], default="capture")
    parser.add_argument("--kills", type=int, default=20, help="trials, each with one kill or more")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument(
        "--earliest", type=float, default=0.0, help="share of the time before the first kill of a trial"
    )
    parser.add_argument("--model", choices=["dense", "moe"], default="moe", help="moe has arrays of every kind")
    parser.add_argument("--size", choices=["reference", "small"], default="small")
    parser.add_argument("--count", type=int, default=640, help="instructions of the set")
    parser.add_argument("--rows-per-block", type=int, default=16, help="instructions that are written together")
    parser.add_argument("--batch-tokens", type=int, default=512)
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    draw = random.Random(args.seed)
    with workspace(args.workdir) as work:
        checkpoint = CHECKPOINTS[args.model, args.size](work / "hf", read_texts("hexainst"))
        convert(checkpoint, work / "model")
        write_instructions(work / "instructions.jsonl", args.count, draw)
        of_command = {
            "capture": [f"--config.capture.rows_per_block={args.rows_per_block}"],
            "finetune": ["--train=all", "--epochs=2", "--save_every=2", "--per_category=4", "--learning_rate=1e-3"],
        }[args.command]
        arguments = [
            f"--model={work / 'model'}",
            f"--instructions={work / 'instructions.jsonl'}",
            f"--config.execution.batch_tokens={args.batch_tokens}",
            *of_command,
        ]
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(work / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
        command = Command(args.command, arguments, os.environ | cache | {"HF_HUB_OFFLINE": "1"}, work / "log")

        expected = work / "expected"
        command.run(expected)  # fills the cache
        start = time.perf_counter()
        command.run(work / "again")
        duration = time.perf_counter() - start
        repeated = command.differences(work / "again", expected)
        total = command.done(expected)
        print(f"\n{args.count} instructions, {total} {'rows' if args.command == 'capture' else 'steps'}")
        print(f"undisturbed {duration:.1f} s, run again: {'; '.join(repeated) or IDENTICAL}\n", flush=True)

        rows = []
        done: list[int] = []
        for number in range(1, args.kills + 1):
            output = work / f"trial-{number}"
            kills = trial(command, output, (args.earliest * duration, duration), draw)
            result = "; ".join(command.differences(output, expected)) or IDENTICAL
            done += [kill.done for kill in kills]
            at = ", ".join(f"{kill.seconds:.2f} s ({kill.done})" for kill in kills)
            rows.append((number, at, result))
            print(f"trial {number} of {args.kills}: {result}", file=sys.stderr, flush=True)
    print_table(("trial", "killed after (done then)", "result"), rows)
    between = sum(0 < count < total for count in done)
    before, after = done.count(0), done.count(total)
    print(f"{len(done)} kills: {before} before anything was done, {between} between, {after} after the last")
    identical = sum(result == IDENTICAL for _, _, result in rows)
    print(f"{identical} of {args.kills} identical")
    if identical < args.kills or repeated:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
