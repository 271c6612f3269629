"""Measures how the time of a capture grows with instructions, with their length and with layers, and fits a line.

python -m benchmarks.growth [--only=instructions,tokens,layers] [--size=reference] [--rounds=3]

The whole job from texts to a durable run, steady state, on the dense model; the points of a sweep take turns. Each line
is fitted by least squares of the relative error. In the sweep over lengths all points have the same number of tokens.
"""

import argparse
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from benchmarks import print_table, timed, workspace
from benchmarks.capture import ModelInMemory
from benchmarks.models import dense_of_layers, instruction_set, read_texts
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.instructions.rows import InstructionSet

INSTRUCTIONS = (75, 150, 300, 600, 1200)
LENGTHS = (32, 64, 128, 256, 512, 1024, 2048)
TOKENS = 32768
LAYERS = (2, 4, 8, 16)
INSTRUCTIONS_PER_LAYERS = 150


@dataclass(frozen=True)
class Point:
    """A capture of a sweep, and where it stands on the sweep's axis."""

    at: int
    model: ModelInMemory
    instructions: InstructionSet
    settings: CaptureSettings = CaptureSettings()


def model_of(work: Path, size: str, layers: int) -> ModelInMemory:
    """A dense model of so many layers, read into memory."""
    texts = read_texts("hexainst", count=0)
    converted = convert(dense_of_layers(work / f"hf-{layers}", texts, size, layers), work / f"model-{layers}")
    model = ModelInMemory(converted.path, converted.config, converted.manifest)
    model.load()
    return model


def sweep(name: str, work: Path, size: str) -> list[Point]:
    """The captures of a sweep."""
    if name == "layers":
        read = instruction_set(read_texts("hexainst", INSTRUCTIONS_PER_LAYERS))
        return [Point(layers, model_of(work, size, layers), read) for layers in LAYERS]
    model = model_of(work, size, 8)
    if name == "instructions":
        return [Point(count, model, instruction_set(read_texts("hexainst", count))) for count in INSTRUCTIONS]
    words = "\n".join(read_texts("hexainst", count=0))
    points = []
    for length in LENGTHS:
        # A token has fewer than 16 characters, so every text is longer than it is to be and is cut.
        starts = [index * len(words) // (TOKENS // length) for index in range(TOKENS // length)]
        texts = [(words + words)[start : start + 16 * length] for start in starts]
        points.append(Point(length, model, instruction_set(texts), CaptureSettings(max_tokens=length, truncate=True)))
    return points


def measure(points: list[Point], run: Path, rounds: int) -> Float64[np.ndarray, "points"]:
    """Median seconds of each point's capture, after one that is not counted."""
    seconds: list[list[float]] = [[] for _ in points]
    for _ in range(rounds + 1):
        for point, taken in zip(points, seconds, strict=True):
            taken.append(timed(lambda point=point: capture(point.model, point.instructions, run, point.settings))[0])
            shutil.rmtree(run)
    return np.asarray([statistics.median(taken[1:]) for taken in seconds])


def line(
    x: Float64[np.ndarray, "points"], y: Float64[np.ndarray, "points"]
) -> tuple[float, float, Float64[np.ndarray, "points"]]:
    """Intercept and slope of the line of least squared relative error, and its values at `x`."""
    weighted = np.stack([1 / y, x / y], axis=1)
    (intercept, slope), *_ = np.linalg.lstsq(weighted, np.ones_like(y))
    return float(intercept), float(slope), intercept + slope * x


def main() -> None:
    """Prints a table and a fit for each sweep."""
    sweeps = ("instructions", "tokens", "layers")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(sweeps), help="the sweeps to run")
    parser.add_argument("--size", choices=["reference", "small"], default="reference", help="small: to try it")
    parser.add_argument("--rounds", type=int, default=3, help="captures of each point that are counted")
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    args = parser.parse_args()
    for name in args.only.split(","):
        if name not in sweeps:
            parser.error(f"--only={name} is not one of {', '.join(sweeps)}")
        with workspace(args.workdir) as work:
            points = sweep(name, work, args.size)
            seconds = measure(points, work / "run", args.rounds)
        x = np.asarray([point.at for point in points], float)
        intercept, slope, fitted = line(x, seconds)
        rows = [
            (f"{point.at:,}", f"{taken:.2f}", f"{on_line:.2f}", f"{taken / on_line - 1:+.1%}")
            for point, taken, on_line in zip(points, seconds, fitted, strict=True)
        ]
        print_table((name, "median s", "line, s", "off the line"), rows)
        print(f"seconds = {intercept:.3g} + {slope:.3g} x {name}\n", flush=True)


if __name__ == "__main__":
    main()
