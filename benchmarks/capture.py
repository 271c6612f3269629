"""Times the capture against what a user might write instead: the whole job, from texts to counts.

python -m benchmarks.capture --model=dense|moe --instructions=hexainst|FILE.jsonl|DIRECTORY
    [--peers=hooks,script,nnsight,transformer_lens] [--rounds=3] [--count=600]

All run in one process, in turns, after a run of each that is not counted; all have model and tokenizer in memory.
The engine's job ends when its store is durable, a peer's when the counts are in memory (`benchmarks/peers.py`). The
engine's uncounted run has nothing compiled; it is printed too. MoE models have one peer, hooks.

In the same turns the engine runs once more with keep=sets, and its forward pass runs bare: the same batches, no
statistics, nothing written. The share of the matmul peak counts the projections that a capture needs, without padding
and attention scores.
"""

import argparse
import os
import shutil
import statistics
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks import print_table, timed, workspace
from benchmarks.forward import bare_step, feeds_of, needed_flops
from benchmarks.models import CHECKPOINTS, instruction_set, read_texts
from benchmarks.peers import OPTIONAL, PEERS, Counts
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params
from sparcom_jax.store.run import Run
from sparcom_jax.units.groups import EXPERT_GROUP, model_groups


class ModelInMemory(ModelDir):
    """A converted model whose parameters and tokenizer are read once, so that no round pays for it."""

    @cached_property
    def _params(self) -> Params:
        execution = ExecutionSettings()
        placement = make_placement(execution.placement, self.config)
        return super().restore(placement.param_shardings(self.config), compute_dtype(execution.dtype, self.dtype))

    @cached_property
    def _tokenizer(self) -> Any:
        return super().tokenizer()

    def load(self) -> None:
        """Reads both now."""
        jax.block_until_ready(self._params)
        self.tokenizer()

    def restore(self, shardings: Any, dtype: str) -> Params:
        """The parameters, placed as the default settings place them."""
        del shardings, dtype
        return self._params

    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer


class BareForward:
    """The engine's forward pass over the batches of a capture, of which nothing is kept but one number a layer."""

    def __init__(self, model: ModelInMemory, instructions: InstructionSet, execution: ExecutionSettings) -> None:
        config, tokenizer = model.config, model.tokenizer()
        placement = self._placement = make_placement(execution.placement, config)
        reader = Reader(tokenizer, make_template("none", tokenizer), config.vocab_size, Limit(config.max_positions))
        texts = tokenize_prompts(instructions, reader)
        self._params = model.restore(None, "")
        fed = feeds_of(texts, 512, execution.batch_tokens, placement)
        self._steps = [(bare_step(config, feed.shape, placement), feed.batch) for feed in fed]

    def run(self) -> None:
        """Runs all batches."""
        calls = (partial(step, self._params, batch, None) for step, batch in self._steps)
        for kept in self._placement.run_ahead(calls):
            jax.block_until_ready(kept)


def matmul_peak(config: DecoderConfig, slots: int) -> float:
    """Largest rate of the projections' shapes, each measured alone, in FLOP/s."""
    product = jax.jit(jnp.matmul)

    def rate(inputs: int, outputs: int) -> float:
        x, w = jnp.ones((slots, inputs)), jnp.ones((inputs, outputs))
        seconds = [timed(lambda: product(x, w).block_until_ready())[0] for _ in range(21)][1:]
        return 2 * slots * inputs * outputs / statistics.median(seconds)

    width, neurons = config.width, config.mlp_width
    return max(rate(width, neurons), rate(neurons, width), rate(width, width))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=["dense", "moe"], default="dense", help="family of the checkpoint")
    parser.add_argument(
        "--size", choices=["reference", "small"], default="reference", help="small: to try this program"
    )
    parser.add_argument(
        "--instructions", default="hexainst", help="hexainst, a JSONL file, or a directory of data sets"
    )
    parser.add_argument("--count", type=int, default=600, help="how many instructions are drawn, at most; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side that are counted")
    parser.add_argument(
        "--batch-tokens",
        type=int,
        default=ExecutionSettings.batch_tokens,
        help="token slots of a batch, on both sides",
    )
    parser.add_argument("--peers", default="hooks", help=f"of {', '.join(PEERS)}; hooks alone for --model=moe")
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    args = parser.parse_args()
    args.peers = args.peers.split(",") if args.peers else []
    allowed = ["hooks"] if args.model == "moe" else list(PEERS)
    if unknown := [name for name in args.peers if name not in allowed]:
        parser.error(f"--peers={unknown[0]} is not one of {', '.join(allowed)} for --model={args.model}")
    if missing := [name for name in args.peers if name in OPTIONAL and find_spec(name) is None]:
        parser.error(f"--peers={missing[0]} is not installed: pip install {missing[0]}")
    return args


def print_times(seconds: dict[str, list[float]], instructions: int, tokens: int) -> None:
    """One row for each program, the engine among them."""
    rows = []
    engine = statistics.median(seconds["engine"])
    for name, rounds in seconds.items():
        median = statistics.median(rounds)
        each = " ".join(f"{one:.2f}" for one in rounds)
        rates = f"{instructions / median:.1f}", f"{tokens / median:,.0f}"
        rows.append((name, f"{median:.2f}", *rates, f"{median / engine:.2f}", each))
    print_table(("", "median s", "instructions/s", "tokens/s", "times the engine's", "rounds, s"), rows)


def print_differences(peer: str, run: Run, counts: Counts) -> None:
    rows = []
    for group, expected in counts.items():
        difference = np.abs(np.asarray(run.count(group).read().result(), np.int32) - expected)
        # Every token shows each neuron of a dense layer once, and those of K experts of a routed one.
        seen = int(run.token_count.sum()) * expected[0].size
        if group in ("routed", EXPERT_GROUP):
            seen = seen * run.manifest.model.num_experts_per_tok // expected.shape[2]
        share = f"{difference.sum() / seen:.2e}"
        rows.append((group, f"{expected.size:,}", difference.max(), np.count_nonzero(difference), share))
    print_table((f"counts of {peer}", "cells", "largest difference", "cells that differ", "flips / activations"), rows)


def main() -> None:
    args = parse_arguments()
    jax.config.update("jax_enable_compilation_cache", False)  # the first run is to show what compiling takes
    torch.set_num_threads(os.cpu_count() or 1)
    texts = read_texts(args.instructions, args.count, args.seed)
    instructions = instruction_set(texts)
    execution = ExecutionSettings(batch_tokens=args.batch_tokens)
    with workspace(args.workdir) as work:
        checkpoint = CHECKPOINTS[args.model, args.size](work / "hf", read_texts(args.instructions, count=0))
        converted = convert(checkpoint, work / "model")
        model = ModelInMemory(converted.path, converted.config, converted.manifest)
        model.load()
        groups = model_groups(model.config)
        peers = {name: PEERS[name](checkpoint, groups, args.batch_tokens) for name in args.peers}

        captured = partial(capture, model, instructions, selection=Selection("frequency"), execution=execution)
        sides = {"engine": CaptureSettings(), "engine, keeping sets": CaptureSettings(keep="sets")}
        runs, colds = {}, []
        for name, of_side in sides.items():
            once, runs[name] = timed(partial(captured, work / name, of_side))
            colds.append(once)
        bare_forward = BareForward(model, instructions, execution)
        bare_forward.run()
        for peer in peers.values():
            peer.count(texts)
        peak = matmul_peak(model.config, args.batch_tokens)
        seconds: dict[str, list[float]] = {name: [] for name in (*sides, "bare forward", *peers)}
        counted = {}
        for _ in range(args.rounds):
            for name, of_side in sides.items():
                shutil.rmtree(work / name)
                once, _ = timed(partial(captured, work / name, of_side))
                seconds[name].append(once)
            seconds["bare forward"].append(timed(bare_forward.run)[0])
            for name, peer in peers.items():
                once, counted[name] = timed(lambda peer=peer: peer.count(texts))
                seconds[name].append(once)

        run = runs["engine"]
        median = {name: statistics.median(rounds) for name, rounds in seconds.items()}
        lengths = run.token_count
        devices = run.manifest.devices
        print(f"\n{args.model} {args.size}: {model.manifest['parameters']:,} parameters; "
              f"engine in {run.manifest.dtype} on {devices.mesh['data']} {devices.kind}, "
              f"torch {torch.__version__} in float32 on {torch.get_num_threads()} threads")  # fmt: skip
        print(f"{len(texts)} instructions of {args.instructions}, {lengths.sum():,} tokens "
              f"(median {np.median(lengths):.0f}, longest {lengths.max()})\n")  # fmt: skip
        print_times({"engine, nothing compiled": colds[:1]} | seconds, len(texts), int(lengths.sum()))
        print(f"compiling (first run less the median): {colds[0] - median['engine']:.1f} s")
        for name in sides:
            stored = sum(path.stat().st_size for path in (work / name).rglob("*") if path.is_file())
            print(f"{name} / bare forward: {median[name] / median['bare forward']:.3f}; "
                  f"{stored / len(texts) / 1e3:.1f} kB an instruction are stored")  # fmt: skip
        rate = needed_flops(model.config) * int(lengths.sum()) / median["engine"]
        print(f"matmul peak {peak / 1e9:.0f} GFLOP/s, of which the engine needs and uses {rate / peak:.2f}")
        filled = {"engine": run.manifest.tokens.slots_filled} | {n: peer.filled for n, peer in peers.items()}
        print("token slots filled: " + ", ".join(f"{name} {share:.1%}" for name, share in filled.items()) + "\n")
        for name, counts in counted.items():
            print_differences(name, run, counts)


if __name__ == "__main__":
    main()
