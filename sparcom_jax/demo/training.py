"""Trains the demo's pairs from scratch: a base model on plain text, its tuned version on the instructions.

The forward pass is the decoder that capture and ablation use.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jaxtyping import Array, Float

from sparcom_jax.batches.packing import fill, make_plan
from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts, tokenize_responses
from sparcom_jax.demo.checkpoint import decoder_config, save_checkpoint, train_tokenizer
from sparcom_jax.demo.corpus import library_text
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Decoder, Params, bind
from sparcom_jax.models.kernels.attention import longest_text
from sparcom_jax.models.taps import LayerTaps, RoutedTap
from sparcom_jax.progress import progress, say

BALANCE_WEIGHT = 0.01
WINDOW = 512


@dataclass(frozen=True)
class TrainingSettings:
    """How a pair is trained.

    Attributes:
      fields: of the Hugging Face config, `model_type` among them.
      corpus_characters: text that the base model and the tokenizer are trained on.
      batch_tokens: tokens of a step.
      base_steps: steps on plain text.
      tuned_steps: steps on instructions and responses.
      learning_rate: peak; warmed up over a tenth of the steps, then decayed to a tenth along a cosine.
      seed: of the initial parameters and the order of the data.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    corpus_characters: int = 1_500_000
    batch_tokens: int = 2048
    base_steps: int = 150
    tuned_steps: int = 120
    learning_rate: float = 3e-3
    seed: int = 0


def train_pair(settings: TrainingSettings, instructions: InstructionSet, base: Path, tuned: Path) -> None:
    """Trains a base model and its tuned version, and saves both as Hugging Face directories.

    Args:
      settings: what to train and for how long.
      instructions: rows with responses, which the tuned version learns.
      base: directory of the base model, to be made.
      tuned: directory of the tuned model, to be made.

    Raises:
      InputError: a loss is not finite, or no row is short enough to learn from.
    """
    documents = library_text(settings.corpus_characters)
    tokenizer = train_tokenizer(iter(documents), settings.fields["vocab_size"])
    config = decoder_config(settings.fields)
    params = nnx.to_pure_dict(nnx.state(Decoder(config, nnx.Rngs(settings.seed)), nnx.Param))
    plain = _plain_text_batches(documents, tokenizer, settings)
    params = _train(f"{base.name}: plain text", config, params, plain, settings.base_steps, settings.learning_rate)
    save_checkpoint(base, settings.fields, params, tokenizer)
    taught = _instruction_batches(instructions, tokenizer, config, settings)
    params = _train(f"{tuned.name}: instructions", config, params, taught, settings.tuned_steps, settings.learning_rate)
    save_checkpoint(tuned, settings.fields, params, tokenizer)


def _train(
    label: str,
    config: DecoderConfig,
    params: Params,
    batches: Iterator[tuple[Shape, Batch]],
    steps: int,
    learning_rate: float,
) -> Params:
    schedule = optax.warmup_cosine_decay_schedule(0.0, learning_rate, max(steps // 10, 1), steps, learning_rate / 10)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.95, weight_decay=0.01))
    state = optimizer.init(params)

    def step(shape: Shape, params: Params, state: Any, batch: Batch) -> tuple[Params, Any, Array]:
        loss, gradient = jax.value_and_grad(_loss)(params, config, shape, batch)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, loss

    compiled = jax.jit(step, static_argnums=0, donate_argnums=(1, 2))
    losses = []
    with progress(label, steps, "steps") as bar:
        for _ in range(steps):
            shape, batch = next(batches)
            params, state, loss = compiled(shape, params, state, batch)
            losses.append(loss)
            bar.advance()
    found = np.asarray(jax.device_get(losses))
    if len(broken := np.flatnonzero(~np.isfinite(found))):
        raise InputError(f"{label}: the loss is not finite from step {broken[0] + 1} on: take a smaller learning_rate "
                         f"than {learning_rate:g}")  # fmt: skip
    first, last = found[:5].mean(), found[-5:].mean()
    say(f"{label}: loss {first:.2f} -> {last:.2f} nats per token")
    return params


def _loss(params: Params, config: DecoderConfig, shape: Shape, batch: Batch) -> Float[Array, ""]:
    """Mean loss of the slots whose next token counts, plus the load balance of the routers (Fedus et al. 2021)."""
    decoder = bind(config, params)
    output = decoder(batch, shape, reduce=lambda taps: _balance(taps, batch.row < shape.rows))
    nll = optax.softmax_cross_entropy_with_integer_labels(decoder.logits(output.hidden), jnp.roll(batch.token, -1))
    loss = jnp.sum(jnp.where(batch.counted, nll, 0.0)) / jnp.sum(batch.counted.astype(jnp.float32))
    return loss + BALANCE_WEIGHT * sum(jnp.mean(balance) for balance in output.taps.values())


def _balance(taps: LayerTaps, valid: Array) -> dict[str, Array]:
    tap = taps.get("routed")
    if not isinstance(tap, RoutedTap):
        return {}
    experts, tokens = tap.logits.shape[-1], jnp.sum(valid.astype(jnp.float32))
    share = jnp.sum(jax.nn.one_hot(tap.chosen, experts), axis=(0, 1)) / tokens
    probability = jnp.sum(jnp.where(valid[:, None], jax.nn.softmax(tap.logits), 0.0), axis=0) / tokens
    return {"balance": experts * jnp.sum(share * probability)}


def _plain_text_batches(
    documents: list[str], tokenizer: Any, settings: TrainingSettings
) -> Iterator[tuple[Shape, Batch]]:
    """Random stretches of the corpus, each read from position 0; every next token within a stretch counts."""
    stream = np.concatenate([np.asarray(tokenizer(text, verbose=False)["input_ids"], np.int32) for text in documents])
    random = np.random.default_rng(settings.seed)
    length = min(256, longest_text(WINDOW), settings.batch_tokens)
    rows = settings.batch_tokens // length
    shape = Shape(rows * length, WINDOW, rows)
    counts = np.arange(length) < length - 1
    while True:
        starts = random.integers(0, len(stream) - length, rows)
        yield shape, fill(shape, [stream[start : start + length] for start in starts], [counts] * rows)


def _instruction_batches(
    instructions: InstructionSet,
    tokenizer: Any,
    config: DecoderConfig,
    settings: TrainingSettings,
) -> Iterator[tuple[Shape, Batch]]:
    """Instructions with their responses, packed; only the responses' tokens count. Longer texts are not learnt from."""
    reader = Reader(tokenizer, make_template("chat", tokenizer), config.vocab_size, Limit(config.max_positions))
    texts = tokenize_responses(instructions, tokenize_prompts(instructions, reader), reader, end=True)
    read = np.flatnonzero(texts.lengths <= longest_text(WINDOW))
    if not len(read):
        raise InputError(f"{instructions.source}: no row has at most {longest_text(WINDOW)} tokens to learn from")
    say(f"{len(read)} of {len(texts.ids)} rows have at most {longest_text(WINDOW)} tokens and are learnt from")
    (bins,) = make_plan(texts.lengths[read], len(read), settings.batch_tokens).blocks
    shape = Shape(bins[0].shape.slots, WINDOW, max(one.shape.rows for one in bins))
    members = [read[list(one.texts)].tolist() for one in bins]
    batches = [fill(shape, [texts.ids[text] for text in of], [texts.predicting(text) for text in of]) for of in members]
    random = np.random.default_rng(settings.seed)
    while True:
        for index in random.permutation(len(batches)):
            yield shape, batches[index]
