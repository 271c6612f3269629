"""Times what follows a capture: identify and select against the store's read rate, all overlaps, and a plain script.

python -m benchmarks.scoring [--instructions=1200] [--layers=32] [--neurons=11008] [--script=60] [--rounds=3]

The run is made up, with the lengths of the shipped set. The script is what one writes first: a sort of the frequencies
of each instruction, sets of unit numbers, and a loop over pairs; it does the first `--script` instructions, and the
engine does the same ones for the comparison.
"""

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import sparcom_jax as sj
from benchmarks import print_table, timed, workspace
from sparcom_jax.analysis.overlap import all_intersections, expected_of_all
from sparcom_jax.analysis.overlap import overlaps as overlaps_of
from sparcom_jax.shares import least_whole
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.manifest import CapturedInstructions, CapturedModel, CapturedTokenizer, Devices, Manifest
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.schema import vector
from sparcom_jax.store.statistics import POSITIVE_COUNT
from sparcom_jax.units.groups import Group

ROWS_PER_WRITE = 512
EPSILON = 0.05
SELECTORS = "auroc,difference,lape"
"""All that read the counts, but for average precision, in one pass."""
GROUP = "mlp"


def make_run(location: Path, instructions: int, layers: int, neurons: int) -> Run:
    """A complete run of one dense group: each neuron has a frequency of its own, and each instruction its noise."""
    random = np.random.default_rng(0)
    rows = list(itertools.islice(itertools.cycle(sj.load_hexainst().rows), instructions))
    tokens = np.asarray([4 * len(row["instruction"].split()) // 3 + 1 for row in rows], np.uint32)
    group = Group(GROUP, tuple(range(layers)), ("neuron",), (neurons,))
    store = Store(location)
    spec = POSITIVE_COUNT.array(group, instructions, ROWS_PER_WRITE)
    array = store.create_array(spec)
    usual = random.beta(0.7, 2.0, group.shape).astype(np.float32)
    for start in range(0, instructions, ROWS_PER_WRITE):
        part = tokens[start : start + ROWS_PER_WRITE]
        noise = random.standard_normal((len(part), *group.shape), np.float32)
        noise *= 0.15
        noise += usual
        counts = np.clip(noise, 0, 1, out=noise) * part[:, None, None]
        array[start : start + len(part)].write(counts.astype(np.uint16)).result()
    categories = sorted({row["category"] for row in rows})
    columns = {"category": [categories.index(row["category"]) for row in rows], "token_count": tokens,
               "done": np.ones(instructions)}  # fmt: skip
    for (name, values), dtype in zip(columns.items(), ("uint8", "uint32", "uint8"), strict=True):
        column = vector(f"instruction/{name}", dtype, "instruction", instructions)
        store.create_array(column).write(np.asarray(values, dtype)).result()
    store.write("instructions.jsonl", b"\n".join(b"{}" for _ in rows))
    store.write_group("", make_manifest(group, categories, instructions).to_json())
    return open_run(location)


def make_manifest(group: Group, categories: list[str], instructions: int) -> Manifest:
    """That of a run which no model was captured for."""
    return Manifest(
        model=CapturedModel(
            family="", path="", source="", digest="", conversion=None, checkpoint_dtype="", parameters=0,
            num_layers=len(group.layers), hidden_size=0, num_experts_per_tok=0,
        ),
        tokenizer=CapturedTokenizer(digest="", special_token_ids=[]),
        instructions=CapturedInstructions(source="hexainst", digest="", count=instructions, truncated={}),
        categories=categories,
        groups={group.name: group},
        rows_per_write=ROWS_PER_WRITE,
        execution={},
        capture={},
        selection=None,
        dtype="float32",
        devices=Devices(platform="cpu", kind="cpu", mesh={}, kernels={}, processes=1),
        versions={},
    )  # fmt: skip


def read_all(run: Run) -> None:
    """The counts, block by block as they were written, and nothing else."""
    counts = run.count(GROUP)
    for start in range(0, counts.shape[0], ROWS_PER_WRITE):
        counts[start : min(start + ROWS_PER_WRITE, counts.shape[0])].read().result()


def overlaps(run: Run) -> dict[str, Any]:
    """Jaccard index and overlap coefficient of all pairs, with their chance levels."""
    group = run.groups[GROUP]
    found = all_intersections(sj.open_sets(run, "excess"), GROUP, lambda layers: None)
    common = {"value": found.common, "chance": expected_of_all(found.first, math.prod(group.sizes))}
    return {name: overlaps_of(of, found.first) for name, of in common.items()}


def script(run: Run, count: int) -> np.ndarray:
    """The same in plain Python, for the first instructions."""
    frequency = run.read(f"{GROUP}/positive_count")[:count] / run.token_count[:count, None, None]
    wanted = least_whole(EPSILON, frequency[0].size)
    chosen = []
    for one in frequency.reshape(count, -1).tolist():
        cut = sorted(one, reverse=True)[wanted - 1]
        chosen.append({unit for unit, value in enumerate(one) if value >= cut})
    jaccard = np.ones((count, count))
    for first, second in itertools.combinations(range(count), 2):
        both = len(chosen[first] & chosen[second])
        jaccard[first, second] = jaccard[second, first] = both / len(chosen[first] | chosen[second])
    return jaccard


def median_seconds(job: Callable[[], Any], rounds: int) -> float:
    """Of so many runs, after one that is not counted."""
    return statistics.median([timed(job)[0] for _ in range(1 + rounds)][1:])


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=1200)
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--neurons", type=int, default=11008)
    parser.add_argument("--script", type=int, default=60, help="instructions for the script; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    args = parser.parse_args()
    with workspace(args.workdir) as work:
        run = make_run(work / "run", args.instructions, args.layers, args.neurons)
        size = 2 * args.instructions * run.groups[GROUP].unit_count / 1e9
        reading = median_seconds(lambda: read_all(run), args.rounds)
        scoring = median_seconds(lambda: sj.identify(run, epsilon=EPSILON), args.rounds)
        choice = sj.SelectSettings(selector=SELECTORS, half="all")
        selecting = median_seconds(lambda: sj.select(run, choice), args.rounds)
        pairing = median_seconds(lambda: overlaps(run), args.rounds)
        print(f"\n{args.instructions} instructions x {run.groups[GROUP].unit_count:,} neurons, {size:.2f} GB of counts")
        print_table(("", "median s", "GB/s", "of the read rate"), [
            ("read", f"{reading:.2f}", f"{size / reading:.2f}", "1"),
            ("identify", f"{scoring:.2f}", f"{size / scoring:.2f}", f"{reading / scoring:.2f}"),
            (f"select by {SELECTORS}", f"{selecting:.2f}", f"{size / selecting:.2f}", f"{reading / selecting:.2f}"),
            ("all overlaps", f"{pairing:.2f}", "", ""),
        ])  # fmt: skip
        if args.script:
            part = make_run(work / "part", args.script, args.layers, args.neurons)
            engine = median_seconds(lambda: (sj.identify(part, epsilon=EPSILON), overlaps(part)), args.rounds)
            plain, expected = timed(lambda: script(part, args.script))
            found, _ = overlaps(part)["jaccard"]
            np.testing.assert_allclose(found, expected, rtol=1e-12)
            print(f"{args.script} instructions: script {plain:.1f} s, engine {engine:.2f} s, "
                  f"{plain / engine:.0f} times as fast, with the same Jaccard indices")  # fmt: skip


if __name__ == "__main__":
    main()
