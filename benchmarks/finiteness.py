"""What it costs a capture to look for numbers that are not finite: its compiled step with and without, in turns.

python -m benchmarks.finiteness --model=dense --rounds=150
"""

import argparse
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import models, timed, workspace
from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts
from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.engine.placement import Step, make_placement
from sparcom_jax.models import decoder
from sparcom_jax.models.kernels import attention

CHECKPOINTS = {"dense": models.dense_reference, "moe": models.moe_reference}
DRAWS = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=CHECKPOINTS, default="dense", help="family of the checkpoint")
    parser.add_argument("--rounds", type=int, default=150, help="steps of each side")
    flags = parser.parse_args()
    with workspace(None) as directory:
        step, bare, arguments = compiled(flags.model, directory)
        seconds = np.asarray([in_turn(step, bare, arguments, index) for index in range(flags.rounds)])
    ratio = seconds[:, 0] / seconds[:, 1]
    draws = np.median(np.random.default_rng(0).choice(ratio, (DRAWS, len(ratio))), axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    usual, without = np.median(seconds, axis=0) * 1e3
    print(f"{flags.model}: {usual:.1f} ms a step, {without:.1f} ms without")
    print(f"ratio of a turn: median {np.median(ratio):.4f} (95% interval {low:.4f} to {high:.4f})")


def compiled(kind: str, directory: Path) -> tuple[Step, Step, tuple[object, ...]]:
    """The step as it is, the step that looks for nothing, and arguments of both."""
    texts = models.read_texts("hexainst", 300)
    CHECKPOINTS[kind](directory / "hf", texts)
    model = convert(directory / "hf", directory / "model")
    config, tokenizer = model.config, model.tokenizer()
    placement = make_placement("pmap", config)
    template = make_template("none", tokenizer)
    reader = Reader(tokenizer, template, config.vocab_size, Limit(config.max_positions))
    tokens = tokenize_prompts(models.instruction_set(texts), reader)
    bins = make_plan(tokens.lengths, 512, 1024).blocks[0]
    feed = next(feeds(tokens, bins, placement.data, tokens.counting))
    params = model.restore(placement.param_shardings(config), "float32")
    arguments = params, feed.batch, None

    def make() -> Step:
        capture_step.cache_clear()
        step = capture_step(config, feed.shape, Kept(), placement)
        jax.block_until_ready(step(*arguments))
        return step

    whole = make()
    with (
        mock.patch.object(decoder, "finite", lambda x: jnp.ones(len(x), bool)),
        mock.patch.object(decoder, "all_finite", lambda x: jnp.ones(len(x), bool)),
        mock.patch.object(attention, "finite", lambda x: jnp.ones(len(x), bool)),
        mock.patch.object(Statistics, "finite", lambda self, taps, batch: jnp.ones(len(batch.row), bool)),
    ):
        return whole, make(), arguments


def in_turn(step: Step, bare: Step, arguments: tuple[object, ...], index: int) -> tuple[float, float]:
    """Seconds of both steps; who goes first changes from turn to turn."""

    def seconds(side: Step) -> float:
        return timed(lambda: jax.block_until_ready(side(*arguments)))[0]

    if index % 2:
        without = seconds(bare)
        return seconds(step), without
    return seconds(step), seconds(bare)


if __name__ == "__main__":
    main()
