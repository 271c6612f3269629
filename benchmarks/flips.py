"""Counts the signs on which the decoder and transformers disagree, for every token and neuron.

python -m benchmarks.flips [--data=../shared/data/public] [--count=200] [--reference]

The decoder reads packed batches, as in a capture; torch reads the same token ids text by text. Both in float32 on CPU.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import torch

from benchmarks import ROOT, print_table, workspace
from benchmarks.models import CHECKPOINTS, instruction_set, read_texts
from benchmarks.peers import load_torch, observe_experts
from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, TokenizedSet, tokenize_prompts
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import Placement, Step, one_device
from sparcom_jax.engine.sweep import sweep
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.faults import first_fault
from sparcom_jax.models.taps import RoutedTap
from sparcom_jax.units.groups import model_groups

LIMIT = 1e-5


class Gates(NamedTuple):
    """What a layer's gates show of one text. A pairs of a token and an expert; in a dense layer all have expert 0.

    Attributes:
      token: `[A]`.
      expert: `[A]`.
      value: `[A, F]`, gate_proj(x) or act_fn of it, which has the same sign.
    """

    token: np.ndarray
    expert: np.ndarray
    value: np.ndarray


TextGates = dict[tuple[str, int], Gates]
"""The gates of one text by (group, layer number)."""


@dataclass
class Tally:
    """What the comparison of one group of neurons comes to.

    Attributes:
      compared: signs that were compared.
      flips: of these, those on which the sides disagree.
      largest: largest |gate_proj(x)| in torch among the flips.
      square: sum of squares of all gate_proj(x) in torch.
      choices: experts that torch chose.
      disagreements: of these, those that the decoder did not choose for the same token.
      cells: counts per text and neuron.
      differing: of these, those that differ.
      largest_difference: between two counts.
    """

    compared: int = 0
    flips: int = 0
    largest: float = 0.0
    square: float = 0.0
    choices: int = 0
    disagreements: int = 0
    cells: int = 0
    differing: int = 0
    largest_difference: int = 0

    def add(self, ours: Gates, theirs: Gates, experts: int) -> None:
        """Compares one layer of one text; `experts` is 1 for a dense layer."""
        keys = [gates.token.astype(np.int64) * experts + gates.expert for gates in (ours, theirs)]
        _, mine, other = np.intersect1d(*keys, assume_unique=True, return_indices=True)
        gate = theirs.value[other]
        positive = ours.value[mine] > 0, gate > 0
        flipped = positive[0] != positive[1]
        self.compared += flipped.size
        self.flips += int(flipped.sum())
        self.largest = max(self.largest, float(np.abs(gate[flipped]).max(initial=0.0)))
        self.square += float(np.square(gate, dtype=np.float64).sum())
        self.choices += len(theirs.token)
        self.disagreements += len(theirs.token) - len(other)
        # Counts per expert and neuron differ by what flipped and by the pairs that one side alone has.
        difference = np.zeros((experts, gate.shape[1]), np.int32)
        rows = flipped.any(axis=1)
        np.add.at(difference, theirs.expert[other][rows], positive[0][rows].astype(np.int32) - positive[1][rows])
        for gates, matched, sign in ((ours, mine, 1), (theirs, other, -1)):
            alone = np.delete(np.arange(len(gates.token)), matched)
            np.add.at(difference, gates.expert[alone], sign * (gates.value[alone] > 0))
        self.cells += difference.size
        self.differing += np.count_nonzero(difference)
        self.largest_difference = max(self.largest_difference, int(np.abs(difference).max()))


@lru_cache
def raw_step(config: DecoderConfig, shape: Shape, placement: Placement) -> Step:
    """The taps of all layers, unreduced."""

    def step(params: Params, batch: Batch, nothing: None) -> Any:
        del nothing
        with jax.default_matmul_precision("highest"):
            read = bind(config, params)(batch, shape, reduce=lambda taps: taps)
        return read.taps, first_fault(read.finite, batch.row, shape.rows)

    return placement.compile(step, config, None, None)


def decoder_gates(model: ModelDir, texts: TokenizedSet, batch_tokens: int) -> Iterator[tuple[int, TextGates]]:
    """Runs the decoder over texts, packed as a capture packs them, and yields (text, its gates)."""
    placed = place_model(model, one_device(), "float32")
    layers = {group.name: group.layers for group in model_groups(model.config)}
    (bins,) = make_plan(texts.lengths, len(texts.ids), batch_tokens).blocks
    for feed in feeds(texts, bins, 1, texts.counting):
        (found,) = sweep(placed, [feed], partial(raw_step, model.config, placement=placed.placement))
        stop = 0
        for number in found.texts:
            start, stop = stop, stop + len(texts.ids[number])
            yield (
                number,
                {
                    (group, layer): _cut(jax.tree.map(lambda leaf, at=at: leaf[at], tap), start, stop)
                    for group, tap in found.values.items()
                    for at, layer in enumerate(layers[group])
                },
            )


def _cut(tap: Any, start: int, stop: int) -> Gates:
    if isinstance(tap, RoutedTap):
        inside = (tap.slot >= start) & (tap.slot < stop)
        return Gates(tap.slot[inside] - start, tap.expert[inside], tap.gate[inside])
    return _dense(tap.gate[start:stop])


def _dense(value: np.ndarray) -> Gates:
    return Gates(np.arange(len(value)), np.zeros(len(value), np.int64), value)


class TorchGates:
    """A transformers model with hooks that keep gate_proj(x) of every layer."""

    def __init__(self, directory: Path) -> None:
        self._model = load_torch(directory)
        self._seen: dict[tuple[str, int], list[Gates]] = {}
        for number, layer in enumerate(self._model.layers):
            if hasattr(layer.mlp, "experts"):
                layer.mlp.shared_expert.act_fn.register_forward_hook(partial(self._see, ("shared", number)))
                observe_experts(layer.mlp.experts, partial(self._see_expert, ("routed", number)))
            else:
                layer.mlp.act_fn.register_forward_hook(partial(self._see, ("mlp", number)))

    def __call__(self, ids: np.ndarray) -> TextGates:
        """The gates of one text."""
        self._seen = {}
        with torch.inference_mode():
            self._model(input_ids=torch.from_numpy(ids.astype(np.int64))[None], use_cache=False)
        return {key: Gates(*map(np.concatenate, zip(*parts, strict=True))) for key, parts in self._seen.items()}

    def _see(self, key: tuple[str, int], module: torch.nn.Module, inputs: tuple[torch.Tensor], output: Any) -> None:
        del module, output
        gate = inputs[0]
        self._seen[key] = [_dense(gate.reshape(-1, gate.shape[-1]).numpy())]

    def _see_expert(self, key: tuple[str, int], expert: int, token: torch.Tensor, gate: torch.Tensor, _: Any) -> None:
        # A copy: the gate is a view of the projection to gate and up.
        gates = Gates(token.numpy(), np.full(len(token), expert), gate.numpy().copy())
        self._seen.setdefault(key, []).append(gates)


def compare(family: str, size: str, texts: list[str], work: Path, batch_tokens: int) -> tuple[int, dict[str, Tally]]:
    """Makes a checkpoint and reads texts with both sides.

    Returns:
      The tokens that were read, and a tally for each group of neurons.
    """
    checkpoint = CHECKPOINTS[family, size](work / f"{family}-hf", texts)
    model = convert(checkpoint, work / family)
    config = model.config
    tokenizer = model.tokenizer()
    reader = Reader(tokenizer, make_template("none", tokenizer), config.vocab_size, Limit(config.max_positions))
    tokenized = tokenize_prompts(instruction_set(texts), reader)
    theirs = TorchGates(checkpoint)
    tallies: dict[str, Tally] = {}
    for number, ours in decoder_gates(model, tokenized, batch_tokens):
        expected = theirs(tokenized.ids[number])
        if ours.keys() != expected.keys():
            raise AssertionError(f"the decoder shows {sorted(ours)}, torch {sorted(expected)}")
        for (group, layer), gates in ours.items():
            experts = config.experts.count if group == "routed" and config.experts else 1
            tallies.setdefault(group, Tally()).add(gates, expected[group, layer], experts)
    return int(tokenized.lengths.sum()), tallies


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    public = ROOT.parent / "shared" / "data" / "public"
    parser.add_argument("--data", default=str(public), help="a directory of data sets, a JSONL file, or hexainst")
    parser.add_argument("--count", type=int, default=200, help="how many instructions are drawn; 0: all")
    parser.add_argument("--seed", type=int, default=0, help="seed of the draw")
    parser.add_argument("--families", nargs="+", choices=["dense", "moe"], default=["dense", "moe"])
    parser.add_argument(
        "--reference", action="store_true", help="the models of benchmarks.capture instead of small ones"
    )
    parser.add_argument("--batch-tokens", type=int, default=2048, help="token slots of a batch of the decoder")
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    jax.config.update("jax_platforms", "cpu")
    texts = read_texts(args.data, args.count, args.seed)
    size = "reference" if args.reference else "small"
    rows = []
    total = Tally()
    with workspace(args.workdir) as work:
        for family in args.families:
            tokens, tallies = compare(family, size, texts, work, args.batch_tokens)
            for group, tally in tallies.items():
                scale = np.sqrt(tally.square / tally.compared)
                routing = f"{tally.disagreements:,} of {tally.choices:,}" if group == "routed" else ""
                rows.append((
                    f"{family} {group}", f"{tokens:,}", f"{tally.compared:,}", f"{tally.flips:,}",
                    f"{tally.flips / tally.compared:.2e}", f"{tally.largest:.2e}", f"{tally.largest / scale:.2e}",
                    routing, f"{tally.differing:,} of {tally.cells:,}", tally.largest_difference,
                ))  # fmt: skip
                total.compared += tally.compared
                total.flips += tally.flips
    print(f"\n{size} models, {len(texts)} instructions of {args.data}\n")
    columns = ("neurons", "tokens", "neurons x tokens", "flips", "rate", "largest |pre-activation| flipped", "over RMS",
               "routed elsewhere", "counts that differ", "by at most")  # fmt: skip
    print_table(columns, rows)
    rate = total.flips / total.compared
    verdict = "below" if rate < LIMIT else "NOT below"
    print(f"{total.flips:,} flips in {total.compared:,} signs: {rate:.2e}, {verdict} {LIMIT:g}")


if __name__ == "__main__":
    main()
