"""Times the capture against transformers with torch forward hooks: the whole job, from texts to counts.

python -m benchmarks.capture --model=dense|moe --instructions=hexainst|FILE.jsonl|DIRECTORY [--rounds=3] [--count=600]

Both sides run in one process, in turns, after a run of each that is not counted; both have model and tokenizer in
memory before. The engine's job ends when its store is durable, the hooks' when the counts are in memory.

In the same turns the engine's forward pass runs bare: the same batches, no statistics, nothing written. The share of
the matmul peak counts the projections that a capture needs, without padding and attention scores.
"""

import argparse
import os
import shutil
import statistics
from collections.abc import Callable
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jax.sharding import PartitionSpec as P
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import print_table, timed, workspace
from benchmarks.models import CHECKPOINTS, instruction_set, read_texts
from sparcom_jax.capture.engine import CaptureSettings, capture, compute_dtype, model_groups
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.data.instructions import InstructionSet
from sparcom_jax.data.packing import Bin, Shape, fill, make_plan, stack, steps
from sparcom_jax.data.templates import make_template
from sparcom_jax.data.tokens import tokenize_prompts
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Batch, Params, abstract_params, bind
from sparcom_jax.parallel import Placement, make_placement
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import EXPERT_GROUP, Group

SeeExpert = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]


class ModelInMemory(ModelDir):
    """A converted model whose parameters and tokenizer are read once, so that no round pays for it."""

    @cached_property
    def _params(self) -> Params:
        settings = CaptureSettings()
        placement = make_placement(settings.placement, settings.model_parallel, self.config)
        return super().restore(placement.param_shardings(self.config), compute_dtype(settings.dtype, self.dtype))

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


class PaddedBatch(NamedTuple):
    """Texts of similar length as a rectangle; B texts, T tokens.

    Attributes:
      rows: `[B]`, which texts they are.
      ids: `[B, T]`, padded on the right.
      real: `[B, T]`, False for padding.
    """

    rows: np.ndarray
    ids: torch.Tensor
    real: torch.Tensor


class HookedModel:
    """A transformers model whose forward hooks count positive activations for each text."""

    def __init__(self, directory: Path, groups: list[Group], batch_tokens: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(directory)
        self._model = load_torch(directory)
        self._groups = groups
        self._batch_tokens = batch_tokens
        self._counts: dict[str, np.ndarray] = {}
        layers = {group.name: group.layers for group in groups}
        for number, layer in enumerate(self._model.layers):
            if hasattr(layer.mlp, "experts"):
                routed, shared = layers["routed"].index(number), layers["shared"].index(number)
                layer.mlp.shared_expert.act_fn.register_forward_hook(partial(self._see, "shared", shared))
                observe_experts(layer.mlp.experts, partial(self._see_expert, routed))
            else:
                layer.mlp.act_fn.register_forward_hook(partial(self._see, "mlp", layers["mlp"].index(number)))

    def count(self, texts: list[str]) -> dict[str, np.ndarray]:
        """Counts `[I, L, ...]` uint16 of each group, and under `expert` the tokens that each expert was chosen for."""
        ids = self._tokenizer(texts)["input_ids"]
        self._counts = {group.name: np.zeros((len(texts), *group.shape), np.uint16) for group in self._groups}
        if "routed" in self._counts:
            self._counts[EXPERT_GROUP] = np.zeros(self._counts["routed"].shape[:-1], np.uint16)
        for batch in padded_batches(ids, self._batch_tokens):
            self._batch = batch
            # Which text of the batch a slot belongs to; -1 for padding.
            row = torch.arange(len(batch.rows))[:, None].expand(batch.ids.shape)
            self._row = torch.where(batch.real, row, -1).flatten()
            with torch.inference_mode():
                self._model(input_ids=batch.ids, attention_mask=batch.real.long(), use_cache=False)
        return self._counts

    def _see(self, group: str, at: int, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> None:
        del module, inputs
        positive = (output.view(*self._batch.ids.shape, -1) > 0) & self._batch.real[:, :, None]
        self._counts[group][self._batch.rows, at] = positive.numpy().sum(axis=1, dtype=np.uint16)

    def _see_expert(
        self, at: int, expert: int, token: torch.Tensor, gate: torch.Tensor, activation: torch.Tensor
    ) -> None:
        del gate
        # Padding, row -1, belongs to no text. Sums of ones are exact in float32.
        member = (torch.arange(len(self._batch.rows))[:, None] == self._row[token]).float()
        rows = self._batch.rows
        self._counts["routed"][rows, at, expert] = (member @ (activation > 0).float()).numpy()
        self._counts[EXPERT_GROUP][rows, at, expert] = member.sum(dim=1).numpy()


class BareForward:
    """The engine's forward pass over the batches of a capture, of which nothing is kept but one number a layer."""

    def __init__(self, model: ModelInMemory, instructions: InstructionSet, settings: CaptureSettings) -> None:
        config, tokenizer = model.config, model.tokenizer()
        placement = make_placement(settings.placement, settings.model_parallel, config)
        texts = tokenize_prompts(instructions, tokenizer, make_template("none", tokenizer), scope="prompt",
                                 vocab_size=config.vocab_size, max_tokens=config.max_positions,
                                 truncate=False)  # fmt: skip
        plan = make_plan(texts.lengths, 512, settings.batch_tokens)

        def lay(one: Bin) -> Batch:
            ids = [texts.ids[text] for text in one.texts]
            return fill(one.shape, ids, [texts.counting(text) for text in one.texts])

        self._params = model.restore(None, "")
        self._steps = [
            (self._compiled(config, bins[0].shape, placement), stack(bins, placement.data, lay))
            for block in plan.blocks
            for bins in steps(block, placement.data)
        ]

    def run(self) -> None:
        """Runs all batches."""
        jax.block_until_ready([step(self._params, batch, None) for step, batch in self._steps])

    @staticmethod
    @cache
    def _compiled(config: DecoderConfig, shape: Shape, placement: Placement) -> Any:
        def step(params: Params, batch: Batch, nothing: None) -> Any:
            del nothing
            read = bind(config, params)(
                batch,
                shape.rows,
                window=shape.window,
                axis=placement.axis,
                reduce=lambda taps: {name: tap.gate.sum() for name, tap in taps.items()},
            )
            return read.taps

        return placement.compile(step, config, None, P())


def needed_flops(config: DecoderConfig) -> float:
    """Floating point operations of the projections, for a token; of the last layer's MLP, the gate alone is needed."""
    total = 0.0
    for path, leaf in jax.tree.leaves_with_path(abstract_params(config)):
        keys = [str(key.key) for key in path]
        last = keys[0] == "runs" and int(keys[1]) == len(config.runs) - 1
        if keys[0] != "runs" or leaf.ndim < 3 or (last and keys[-2 + ("routed" in keys)] in ("up", "down")):
            continue
        share = config.experts.per_token / config.experts.count if config.experts and "routed" in keys else 1.0
        total += 2 * leaf.size * share
    return total


def matmul_peak(config: DecoderConfig, slots: int) -> float:
    """Largest rate of the projections' shapes, each measured alone, in FLOP/s."""
    product = jax.jit(jnp.matmul)

    def rate(inputs: int, outputs: int) -> float:
        x, w = jnp.ones((slots, inputs)), jnp.ones((inputs, outputs))
        seconds = [timed(lambda: product(x, w).block_until_ready())[0] for _ in range(21)][1:]
        return 2 * slots * inputs * outputs / statistics.median(seconds)

    width, neurons = config.width, config.mlp_width
    return max(rate(width, neurons), rate(neurons, width), rate(width, width))


def load_torch(directory: Path) -> torch.nn.Module:
    """A checkpoint in transformers without its head, in float32, with the experts in a plain loop."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, experts_implementation="eager")
    return model.eval().model


def observe_experts(experts: torch.nn.Module, see: SeeExpert) -> None:
    """Patches the expert loop of transformers, so that what each expert does can be seen.

    Args:
      experts: the fused experts of a layer.
      see: is called with each expert that has tokens, these tokens (rising), gate_proj(x) and act_fn(gate_proj(x)).
    """

    def forward(hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        output = torch.zeros_like(hidden)
        routed = torch.nn.functional.one_hot(chosen, experts.num_experts).permute(2, 0, 1)
        for expert in routed.sum(dim=(1, 2)).nonzero().flatten().tolist():
            token, choice = torch.where(routed[expert])
            projected = torch.nn.functional.linear(hidden[token], experts.gate_up_proj[expert])
            gate, up = projected.chunk(2, dim=-1)
            activation = experts.act_fn(gate)
            see(expert, token, gate, activation)
            result = torch.nn.functional.linear(activation * up, experts.down_proj[expert])
            output.index_add_(0, token, result * weights[token, choice, None])
        return output

    experts.forward = forward


def padded_batches(ids: list[list[int]], batch_tokens: int) -> list[PaddedBatch]:
    """Sorts texts by length and cuts them into batches of at most `batch_tokens` slots, or of one text."""
    batches = []
    rows: list[int] = []
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if rows and (len(rows) + 1) * len(ids[row]) > batch_tokens:
            batches.append(_pad(ids, rows))
            rows = []
        rows.append(row)
    return [*batches, _pad(ids, rows)]


def _pad(ids: list[list[int]], rows: list[int]) -> PaddedBatch:
    length = max(len(ids[row]) for row in rows)
    padded = torch.tensor([ids[row] + [0] * (length - len(ids[row])) for row in rows])
    real = torch.tensor([[True] * len(ids[row]) + [False] * (length - len(ids[row])) for row in rows])
    return PaddedBatch(np.asarray(rows), padded, real)


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
    parser.add_argument("--batch-tokens", type=int, default=2048, help="token slots of a batch, on both sides")
    parser.add_argument("--workdir", type=Path, help="where temporary files go")
    return parser.parse_args()


def print_times(names: list[str], seconds: list[list[float]], instructions: int, tokens: int) -> None:
    rows = []
    for name, rounds in zip(names, seconds, strict=True):
        median = statistics.median(rounds)
        each = " ".join(f"{one:.2f}" for one in rounds)
        rows.append((name, f"{median:.3f}", f"{instructions / median:.1f}", f"{tokens / median:,.0f}", each))
    print_table(("", "median s", "instructions/s", "tokens/s", "rounds, s"), rows)


def print_differences(run: Run, counts: dict[str, np.ndarray]) -> None:
    rows = []
    for group, expected in counts.items():
        difference = np.abs(np.asarray(run.count(group).read().result(), np.int32) - expected)
        # Every token shows each neuron of a dense layer once, and those of K experts of a routed one.
        seen = int(run.token_count.sum()) * expected[0].size
        if group in ("routed", EXPERT_GROUP):
            seen = seen * run.attributes["model"]["num_experts_per_tok"] // expected.shape[2]
        share = f"{difference.sum() / seen:.2e}"
        rows.append((group, f"{expected.size:,}", difference.max(), np.count_nonzero(difference), share))
    print_table(("counts", "cells", "largest difference", "cells that differ", "flips / activations"), rows)


def main() -> None:
    args = parse_arguments()
    jax.config.update("jax_enable_compilation_cache", False)  # the first run is to show what compiling takes
    torch.set_num_threads(os.cpu_count() or 1)
    texts = read_texts(args.instructions, args.count, args.seed)
    instructions = instruction_set(texts)
    settings = CaptureSettings(batch_tokens=args.batch_tokens)
    with workspace(args.workdir) as work:
        checkpoint = CHECKPOINTS[args.model, args.size](work / "hf", read_texts(args.instructions, count=0))
        converted = convert(checkpoint, work / "model")
        model = ModelInMemory(converted.path, converted.config, converted.manifest)
        model.load()
        hooked = HookedModel(checkpoint, model_groups(model.config), args.batch_tokens)

        bare_forward = BareForward(model, instructions, settings)
        first, _ = timed(lambda: capture(model, instructions, work / "run", settings))
        timed(lambda: hooked.count(texts))
        bare_forward.run()
        peak = matmul_peak(model.config, args.batch_tokens)
        engine, hooks, bare = [], [], []
        for _ in range(args.rounds):
            shutil.rmtree(work / "run")
            seconds, run = timed(lambda: capture(model, instructions, work / "run", settings))
            engine.append(seconds)
            seconds, counts = timed(lambda: hooked.count(texts))
            hooks.append(seconds)
            bare.append(timed(bare_forward.run)[0])

        lengths = run.token_count
        devices = run.attributes["devices"]
        print(f"\n{args.model} {args.size}: {model.manifest['parameters']:,} parameters; "
              f"engine in {run.attributes['dtype']} on {devices['mesh']['data']} {devices['kind']}, "
              f"torch {torch.__version__} in float32 on {torch.get_num_threads()} threads")  # fmt: skip
        print(f"{len(texts)} instructions of {args.instructions}, {lengths.sum():,} tokens "
              f"(median {np.median(lengths):.0f}, longest {lengths.max()})\n")  # fmt: skip
        print_times(["engine", "torch hooks", "bare forward"], [engine, hooks, bare], len(texts), int(lengths.sum()))
        ratio = statistics.median(engine) / statistics.median(hooks)
        print(f"median time, engine/hooks: {ratio:.3f} (instructions/s: {1 / ratio:.3f} times the hooks')")
        print(f"engine/bare forward: {statistics.median(engine) / statistics.median(bare):.3f}")
        rate = needed_flops(model.config) * int(lengths.sum()) / statistics.median(engine)
        print(f"matmul peak {peak / 1e9:.0f} GFLOP/s, of which the engine needs and uses {rate / peak:.2f}")
        print(f"compiling (first run less the median): {first - statistics.median(engine):.1f} s")
        print(f"token slots filled: {run.attributes['tokens']['slots_filled']:.1%}\n")
        print_differences(run, counts)


if __name__ == "__main__":
    main()
