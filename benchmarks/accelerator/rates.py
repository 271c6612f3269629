"""Parts `dense`, `moe` and `gpt_oss`: how fast a capture of a released model's shape is, and what it leaves.

The weights are random and made on the device. Three things are timed, in tokens a second: the forward pass alone, of
which nothing is kept; the steps of the capture, whose statistics stay on the device; and the capture itself, from texts
to a durable run. The share of the product rate counts the projections that a capture needs, without padding and
attention scores, over the rate that part `machine` has measured for the same dtype.
"""

import shutil
import statistics
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import AutoTokenizer

from benchmarks import timed
from benchmarks.accelerator.hooks import hooks_rate
from benchmarks.accelerator.machine import memory_limit, on_cpu, peak_memory
from benchmarks.accelerator.record import AT_LEAST, Record, median_of
from benchmarks.accelerator.shapes import (
    SHAPES,
    Fields,
    decoder_config,
    parameter_bytes,
    random_params,
    small,
    with_layers,
)
from benchmarks.forward import bare_step, feeds_of, needed_flops
from benchmarks.models import instruction_set, read_texts, save_tokenizer
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, TokenizedSet, tokenize_prompts
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.placement import Placement, make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.identify.selection import Selection
from sparcom_jax.models.batch import Batch
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params
from sparcom_jax.models.kernels.choice import OTHER_GPU, TPU, Kernels

MODELS = {"dense": "Llama-3.1-8B", "moe": "Qwen1.5-MoE-A2.7B", "gpt_oss": "gpt-oss-20b"}
GOAL_SHARE = {"dense": 0.5, "moe": 0.35, "gpt_oss": 0.35}
GOAL_OVER_BARE = 1.05
ROOM_FOR_WEIGHTS = 0.75
"""Share of a device's memory that weights may take; activations and statistics need the rest."""
HEXAINST = "instructions of HexaInst"
ROWS = 256
"""Instructions of a block."""
SECONDS_TO_COMPILE = 20.0
"""Least time that must be left to begin with another shape."""
OTHER_SLOTS = (16384, 4096, 32768)


def capture_rates(record: Record, part: str, work: Path, trace: Path | None) -> None:
    """Measures one model's shape.

    Args:
      record: takes down the figures.
      part: `dense`, `moe` or `gpt_oss`.
      work: a directory for runs.
      trace: a directory for a profile of a capture; None makes none.
    """
    subject = Subject(record, part, work)
    peak_before = peak_memory()
    usual, long = subject.texts(0, 0), subject.texts(subject.long_texts, subject.long_tokens)
    slots = subject.slots
    # In the small form, what is the same for all models is done for one.
    rate = subject.steps(HEXAINST, usual, slots, with_bare=part == "dense" or not on_cpu())
    subject.whole(HEXAINST, slots, rate, trace, ("counts",) if on_cpu() else ("counts", "sets"))
    name = f"texts of {subject.long_tokens:,} tokens"
    record.attempt(name, lambda: subject.steps(name, long, slots), 0.0 if on_cpu() else SECONDS_TO_COMPILE)
    if peak_memory() > peak_before:
        record.figure("most memory", peak_memory() / 1e9, "GB")
    for other in OTHER_SLOTS if not on_cpu() else ():
        job = partial(subject.steps, f"{other:,} slots", usual, other)
        record.attempt(f"{other:,} slots", job, SECONDS_TO_COMPILE, optional=True)
    for name, kernels in alternatives(subject.placement.kernels, part != "dense") if not on_cpu() else ():
        job = partial(subject.steps, name, usual, slots, kernels=kernels)
        record.attempt(name, job, SECONDS_TO_COMPILE, optional=True)


def hooks(record: Record, part: str) -> None:
    """Measures what the capture is compared with: torch with forward hooks, on the same lengths in the same dtype."""
    fields, _ = fitting(SHAPES[MODELS[part]])
    with tempfile.TemporaryDirectory() as directory:
        lengths = _tokens(_tokenizer(Path(directory), fields["vocab_size"]), _texts(0, 0), fields["vocab_size"]).lengths
    hooks_rate(record, fields, lengths, *(("float32", 512, 1) if on_cpu() else ("bfloat16", 8192, 2)))


def fitting(fields: Fields) -> tuple[Fields, int]:
    """The fields of a model in a size for this machine, and how many devices share it.

    It is as deep as the memory allows, once all devices share it where one cannot hold it.
    """
    if on_cpu():
        return small(fields), 1
    room = ROOM_FOR_WEIGHTS * memory_limit() if memory_limit() else np.inf
    config = decoder_config(fields)
    devices = len(jax.local_devices())
    divided = (config.heads, config.kv_heads, config.mlp_width, config.experts.count if config.experts else 0)
    share = 1
    if parameter_bytes(config, "bfloat16") > room and all(size % devices == 0 for size in divided):
        share = devices
    layers = config.num_layers
    while layers > 2 and parameter_bytes(decoder_config(fields, layers), "bfloat16") > share * room:
        layers -= 1
    return with_layers(fields, layers), share


def alternatives(usual: Kernels, routed: bool) -> list[tuple[str, Kernels]]:
    """What else an accelerator could take for each part of the forward pass, one part at a time."""
    fields = ("attention", "counting", *(("experts",) if routed else ()))
    found = {
        f"{field} by {getattr(other, field)}": replace(usual, **{field: getattr(other, field)})
        for field in fields
        for other in (OTHER_GPU, TPU)
        if getattr(other, field) != getattr(usual, field)
    }
    return list(found.items())


class Subject:
    """A model of random weights on the devices, and the texts that it reads."""

    def __init__(self, record: Record, part: str, work: Path) -> None:
        self._record = record
        self._part = part
        self._work = work
        fields, share = fitting(SHAPES[MODELS[part]])
        self.config = decoder_config(fields)
        self.dtype = "float32" if on_cpu() else "bfloat16"
        self._asked = f"mesh:{share}" if share > 1 else "pmap"
        self.placement = make_placement(self._asked, self.config)
        self.long_tokens, self.long_texts = (256, 4) if on_cpu() else (2048, 64)
        self.slots = 512 if on_cpu() else 8192
        self._rounds = 2 if on_cpu() else 3
        bytes_of_all = parameter_bytes(self.config, self.dtype)
        record.fact(
            "model",
            f"{MODELS[part]}{' in small' if on_cpu() else ''}, {self.config.num_layers} layers, "
            f"{bytes_of_all / 1e9:.3g} GB of {self.dtype}, {self.placement.kind}, {share} devices share it",
        )
        seconds, self.params = timed(
            lambda: jax.block_until_ready(
                random_params(self.config, self.dtype, self.placement.param_shardings(self.config))
            )
        )
        record.figure("making the weights", seconds, "s")
        self._model = RandomModel.make(work / "model", self.config, self.dtype, self.params)

    def texts(self, count: int, tokens: int) -> TokenizedSet:
        """HexaInst's instructions, or so many texts of so many tokens."""
        return _tokens(self._model.tokenizer(), _texts(count, tokens), self.config.vocab_size, tokens)

    def steps(
        self, name: str, texts: TokenizedSet, slots: int, *, kernels: Kernels | None = None, with_bare: bool = False
    ) -> float:
        """Times the steps of a capture of texts, and takes down their rate.

        Returns:
          Tokens a second.
        """
        placement = replace(self.placement, kernels=kernels or self.placement.kernels)
        fed = feeds_of(texts, ROWS, slots, placement)
        compiled = [(capture_step(self.config, feed.shape, Kept(), placement), feed.batch) for feed in fed]
        first, _ = timed(lambda: _pass(compiled, self.params, placement))
        seconds = median_of(lambda: _pass(compiled, self.params, placement), self._rounds, warm_up=0)
        shapes = len({feed.shape for feed in fed})
        tokens = int(texts.lengths.sum())
        rates = [tokens / one for one in seconds]
        self._record.figure(f"steps, {name}", statistics.median(rates), "tokens/s", spread=rates)
        self._record.figure(f"compiling, {shapes} shapes, {name}", max(first - statistics.median(seconds), 0.0), "s")
        self._share(name, statistics.median(rates))
        if with_bare:
            bare = [(bare_step(self.config, feed.shape, placement), feed.batch) for feed in fed]
            alone = median_of(lambda: _pass(bare, self.params, placement), self._rounds)
            self._record.figure(f"bare forward, {name}", tokens / statistics.median(alone), "tokens/s",
                                spread=[tokens / one for one in alone])  # fmt: skip
            over = statistics.median(seconds) / statistics.median(alone)
            self._record.figure(f"steps over the bare forward, {name}", over, "times",
                                goal=None if on_cpu() else GOAL_OVER_BARE)  # fmt: skip
        return statistics.median(rates)

    def whole(self, name: str, slots: int, rate_of_steps: float, trace: Path | None, keeping: tuple[str, ...]) -> None:
        """Times captures from texts to a durable run, for each value of `capture.keep`."""
        settings = CaptureSettings(rows_per_block=ROWS)
        execution = ExecutionSettings(batch_tokens=slots, placement=self._asked, dtype=self.dtype)
        instructions = instruction_set(_texts(0, 0))

        def job(settings: CaptureSettings) -> int:
            shutil.rmtree(self._work / "run", ignore_errors=True)
            run = capture(self._model, instructions, self._work / "run", settings, Selection("frequency"), execution)
            return int(run.token_count.sum())

        for keep in keeping:
            kept = replace(settings, keep=keep)
            tokens = job(kept)
            seconds = median_of(partial(job, kept), self._rounds, warm_up=0)
            rates = [tokens / one for one in seconds]
            what = f"capture, {name}" + (", keeping sets" if keep == "sets" else "")
            self._record.figure(what, statistics.median(rates), "tokens/s", spread=rates)
            # 1 where all that passes to the host and to disk is hidden behind the steps.
            self._record.figure(f"{what}, over its steps", rate_of_steps / statistics.median(rates), "times")
        if trace:
            with jax.profiler.trace(str(trace / self._part)):
                job(settings)
            self._record.fact("profile", str(trace / self._part))

    def _share(self, name: str, rate: float) -> None:
        products = self._record.known("machine", f"products, {self.dtype}")
        if products is None:
            self._record.skipped(f"share of the product rate, {name}", "part machine did not measure it")
            return
        devices = len(jax.local_devices())
        share = needed_flops(self.config) * rate / (products * 1e12 * devices)
        # Of the small form it says nothing, and other texts and kernels are compared with the usual ones.
        goal = GOAL_SHARE[self._part] if name == HEXAINST and not on_cpu() else None
        self._record.figure(f"share of the product rate, {name}", share, "", goal=goal, bound=AT_LEAST)


class RandomModel(ModelDir):
    """A model that was never a checkpoint: its weights are given, its tokenizer is made of HexaInst's texts."""

    @classmethod
    def make(cls, path: Path, config: DecoderConfig, dtype: str, params: Params) -> "RandomModel":
        """Makes one whose directory holds the tokenizer alone."""
        path.mkdir()
        manifest = {"dtype": dtype, "source": "random weights", "digest": "random weights", "conversion": None,
                    "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))}  # fmt: skip
        model = cls(path, config, manifest)
        model.__dict__ |= {"given": (_tokenizer(path, config.vocab_size), params)}  # the dataclass is frozen
        return model

    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self.__dict__["given"][0]

    def restore(self, shardings: Any, dtype: str) -> Params:
        """The given weights, which lie where they are to."""
        del shardings, dtype
        params: Params = self.__dict__["given"][1]
        return params


def _texts(count: int, tokens: int) -> list[str]:
    """HexaInst's instructions, or so many longer texts made of them, each of more tokens than are asked for."""
    texts = read_texts("hexainst", 24 if on_cpu() else 0)
    if not count:
        return texts
    return [" ".join((texts[number % len(texts) :] + texts) * (tokens // 16))[: tokens * 12] for number in range(count)]


def _tokens(tokenizer: Any, texts: list[str], vocab_size: int, most: int = 0) -> TokenizedSet:
    template = make_template("none", tokenizer)
    reader = Reader(tokenizer, template, vocab_size, Limit(most or 1 << 16))
    return tokenize_prompts(instruction_set(texts), reader, truncate=bool(most))


def _tokenizer(directory: Path, vocab_size: int) -> Any:
    save_tokenizer(directory, read_texts("hexainst", 0), vocab_size)
    return AutoTokenizer.from_pretrained(directory, local_files_only=True)


def _pass(compiled: list[tuple[Any, Batch]], params: Params, placement: Placement) -> None:
    """Runs all batches; what comes of each is waited for, then dropped."""
    for found in placement.run_ahead(partial(step, params, batch, None) for step, batch in compiled):
        jax.block_until_ready(found)
