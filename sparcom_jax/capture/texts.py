"""What a capture feeds: the instructions as tokens, within their template and with their responses."""

from typing import Any

from sparcom_jax.batches.templates import Template
from sparcom_jax.batches.tokens import (
    Reader,
    TokenizedSet,
    token_limit,
    tokenize_prompts,
    tokenize_responses,
    too_long_for,
)
from sparcom_jax.capture.generate import require_steady_angles
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import say
from sparcom_jax.store.schema import MAX_COUNT


def texts_to_feed(
    config: DecoderConfig, instructions: InstructionSet, tokenizer: Any, template: Template, settings: CaptureSettings
) -> TokenizedSet:
    """What is fed, but for scope `generated`: there, what is continued.

    Args:
      config: the model.
      instructions: the rows.
      tokenizer: the model's tokenizer.
      template: what stands around an instruction.
      settings: of the capture.

    Raises:
      InputError: a text is too long, lacks what the scope needs, or does not fit the model.
    """
    limit = token_limit(settings.max_tokens, config.max_positions, MAX_COUNT)
    if settings.max_tokens > limit.tokens:
        say(f"capture.max_tokens {settings.max_tokens} is more than {limit.tokens}, {limit.source}, which holds")
    reader = Reader(tokenizer, template, config.vocab_size, limit)
    texts = tokenize_prompts(instructions, reader, scope=settings.scope, truncate=settings.truncate)
    if settings.scope == "response":
        texts = tokenize_responses(instructions, texts, reader, end=False)
    if settings.scope == "generated":
        names = [row["id"] for row in instructions.rows]
        if taken := [row["id"] for row in instructions.rows if "generated" in row]:
            raise InputError(f"{instructions.source}: field 'generated' is the capture's own: {first_of(taken)}")
        sizes = zip(names, texts.lengths + settings.new_tokens, strict=True)
        if too_long := [f"{name} ({size})" for name, size in sizes if size > limit.tokens]:
            what = f"{instructions.source}: prompt and {settings.new_tokens} new tokens are longer than"
            raise InputError(what + too_long_for(limit, too_long))
        require_steady_angles(config, texts.lengths, settings.new_tokens, names, instructions.source)
    return texts
