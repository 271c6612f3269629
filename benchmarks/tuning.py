"""Times steps of training against a loop of transformers and PyTorch on the same model and the same batches.

python -m benchmarks.tuning --model=MODEL_DIR [--instructions=hexainst:16] [--train=all] [--steps=3] [--rounds=3]

A step of either side reads the same rows, learns from the tokens of their responses, clips the gradient and takes one
of AdamW, in float32. Here rows lie packed in slots; there they are padded to the longest, with a mask, as a collator
does it. Both are warmed up with one step; then they take turns. Tokens are those of prompts and responses alone. Peak
memory is that of a process that takes one step of a side.
"""

import argparse
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import ROOT, print_table, timed, workspace
from sparcom_jax.batches.packing import feeds
from sparcom_jax.convert.export import export
from sparcom_jax.convert.model_dir import ModelDir, open_model
from sparcom_jax.engine.placement import one_device
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.tune.choice import choose
from sparcom_jax.tune.settings import TuneSettings, parse_train
from sparcom_jax.tune.step import Steps
from sparcom_jax.tune.texts import Schedule, TuneTexts, schedule, tune_texts


class Ours:
    """Steps of this package."""

    def __init__(self, model: ModelDir, train: str, texts: TuneTexts, plan: Schedule, settings: TuneSettings) -> None:
        """Puts the model in its place."""
        placement = one_device()
        trained = choose(parse_train(train), model, None, settings).trained
        params = jax.tree.leaves(model.restore(placement.param_shardings(model.config), "float32"))
        self._steps = Steps(trained, placement, "float32", settings, len(plan.steps))
        self._training = self._steps.begin(trained.begin(params, 0))
        self._kept = [params[number] for number in trained.kept]
        self._texts, self._plan = texts, plan

    def step(self, number: int) -> float:
        """Takes a step and returns its loss."""
        sums, texts = self._steps.nothing(), self._texts.texts
        for feed in feeds(texts, self._plan.steps[number], 1, texts.predicting):
            sums, _ = self._steps.add(self._plan.shape, self._kept, self._training.values, sums, feed.batch)
        self._training, taken = self._steps.update(self._training, sums)
        return float(taken.loss)


class Theirs:
    """Steps of transformers and PyTorch."""

    def __init__(self, directory: Path, texts: TuneTexts, plan: Schedule, settings: TuneSettings) -> None:
        """Loads the model."""
        import torch
        from transformers import AutoModelForCausalLM

        self._model: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).train()
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=settings.learning_rate, weight_decay=0.0)
        self._texts, self._plan, self._clip = texts.texts, plan, settings.clip

    def step(self, number: int) -> float:
        """Takes a step and returns its loss."""
        import torch

        rows = [text for one in self._plan.steps[number] for text in one.texts]
        longest = max(len(self._texts.ids[row]) for row in rows)
        token, label = torch.zeros(len(rows), longest, dtype=torch.long), torch.full((len(rows), longest), -100)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            ids, first = torch.tensor(self._texts.ids[row]).long(), int(self._texts.first_counted[row])
            token[place, : len(ids)], mask[place, : len(ids)], label[place, first : len(ids)] = ids, 1, ids[first:]
        self._optimizer.zero_grad()
        loss = self._model(input_ids=token, attention_mask=mask, labels=label).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip)
        self._optimizer.step()
        return float(loss.detach())


def _steps(side: Any, numbers: range) -> list[float]:
    return [side.step(number) for number in numbers]


def _peak_of(side: str) -> str:
    """Peak memory of one step of a side, in a process of its own; the model's export is in either."""
    command = [sys.executable, "-m", "benchmarks.tuning", *sys.argv[1:], f"--peak-of={side}"]
    return f"{float(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout):.1f}"


def peak_gigabytes() -> float:
    """Of this process; what `getrusage` says begins with what its parent had."""
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(kilobytes) / 2**20


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--instructions", default="hexainst:16")
    parser.add_argument("--train", default="all")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=1024)
    parser.add_argument("--peak-of", default="", help="prints the peak memory of one side alone, in GB")
    args = parser.parse_args()
    model = open_model(args.model)
    settings = TuneSettings(half="all", validation=0.0, template="chat", learning_rate=1e-5, epochs=1)
    texts = tune_texts(model, load_instructions(args.instructions), settings)
    plan = schedule(texts, settings, args.slots, 1)
    if len(plan.steps) <= args.steps * args.rounds:
        parser.error(f"{args.instructions} gives {len(plan.steps)} steps; {args.steps * args.rounds + 1} are needed")
    with workspace(None) as scratch:
        directory = export(model, scratch / "hf")
        makers: dict[str, Callable[[], Any]] = {
            "sparcom_jax": lambda: Ours(model, args.train, texts, plan, settings),
            "transformers, torch": lambda: Theirs(directory, texts, plan, settings),
        }
        if args.peak_of:
            makers[args.peak_of]().step(0)
            print(peak_gigabytes())
            return
        sides = {name: make() for name, make in makers.items()}
    losses: dict[str, list[float]] = {name: [side.step(0)] for name, side in sides.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(args.rounds):
        numbers = range(1 + turn * args.steps, 1 + (turn + 1) * args.steps)
        read = [text for number in numbers for one in plan.steps[number] for text in one.texts]
        tokens = int(texts.texts.lengths[read].sum())
        for name, side in sides.items():
            seconds, found = timed(partial(_steps, side, numbers))
            losses[name] += found
            rates[name].append(tokens / seconds)
    ours, theirs = (statistics.median(of) for of in rates.values())
    apart = np.abs(np.subtract(*losses.values())).max() if args.train == "all" else float("nan")
    print(f"{args.train}: {len(plan.steps)} steps of {plan.shape.slots} slots, {plan.filled:.0%} filled")
    print(f"losses at most {apart:.2g} apart")
    print_table(("", "tokens/s", "rounds", "ratio", "peak GB"), [
        (name, f"{statistics.median(of):.0f}", " ".join(f"{one:.0f}" for one in of),
         f"{ours / theirs:.2f}" if name == "sparcom_jax" else "", _peak_of(name)) for name, of in rates.items()
    ])  # fmt: skip


if __name__ == "__main__":
    main()
