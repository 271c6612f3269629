"""What a capture feeds: the instructions as tokens, within their template and with their responses."""

from typing import Any

from sparcom_jax.batches.templates import Template
from sparcom_jax.batches.tokens import (
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
    """What is fed, but for scope `generated`: there, what is continued."""
    max_tokens, limit = token_limit(settings.max_tokens, config.max_positions, MAX_COUNT)
    if settings.max_tokens > max_tokens:
        say(f"capture.max_tokens {settings.max_tokens} is more than {max_tokens}, {limit}, which holds")
    texts = tokenize_prompts(instructions, tokenizer, template, scope=settings.scope, vocab_size=config.vocab_size,
                             max_tokens=max_tokens, truncate=settings.truncate, limit=limit)  # fmt: skip
    if settings.scope == "response":
        texts = tokenize_responses(instructions, texts, tokenizer, vocab_size=config.vocab_size, max_tokens=max_tokens,
                                   separator=template.separator, end=False, limit=limit)  # fmt: skip
    if settings.scope == "generated":
        names = [row["id"] for row in instructions.rows]
        if taken := [row["id"] for row in instructions.rows if "generated" in row]:
            raise InputError(f"{instructions.source}: field 'generated' is the capture's own: {first_of(taken)}")
        sizes = zip(names, texts.lengths + settings.new_tokens, strict=True)
        if too_long := [f"{name} ({size})" for name, size in sizes if size > max_tokens]:
            what = f"{instructions.source}: prompt and {settings.new_tokens} new tokens are longer than"
            raise InputError(what + too_long_for(max_tokens, limit, too_long))
        require_steady_angles(config, texts.lengths, settings.new_tokens, names, instructions.source)
    return texts
