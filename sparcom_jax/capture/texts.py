"""What a capture feeds: the instructions as tokens, within their template and with their responses."""

from dataclasses import fields
from typing import Any

import numpy as np
from jaxtyping import Int64

from sparcom_jax.batches.templates import Template, make_template
from sparcom_jax.batches.tokens import (
    Reader,
    TokenizedSet,
    extended,
    token_limit,
    tokenize_prompts,
    tokenize_responses,
    too_long_for,
)
from sparcom_jax.capture.generate import require_steady_angles
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import say
from sparcom_jax.store.arrays import finished
from sparcom_jax.store.run import Run
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


def captured_texts(model: ModelDir, run: Run, rows: Int64[np.ndarray, "R"]) -> TokenizedSet:
    """The texts of some instructions of a run, as they were fed and counted.

    Args:
      model: the model that the run was captured from.
      run: the run.
      rows: which instructions.

    Raises:
      InputError: the template renders otherwise than in the capture, or the tokens are not as many.
    """
    captured = run.manifest.capture
    settings = CaptureSettings(**{one.name: captured[one.name] for one in fields(CaptureSettings)})
    tokenizer = model.tokenizer()
    template = captured_template(run, tokenizer)
    kept = [{key: value for key, value in run.instructions[row].items() if key not in ("generated", "token_count")}
            for row in rows]  # fmt: skip
    texts = texts_to_feed(
        model.config, InstructionSet(run.location, kept, run.categories), tokenizer, template, settings
    )
    if settings.scope == "generated":
        tokens, lengths = (
            np.asarray(finished(run.store.open_array(f"generated/{name}")[rows].read(), run.location))
            for name in ("token", "length")
        )
        texts = extended(texts, [row[:count] for row, count in zip(tokens, lengths, strict=True)])
    texts = texts.last(settings.count_window)
    if (other := np.flatnonzero(texts.counted != run.token_count[rows])).size:
        name, now = kept[other[0]]["id"], texts.counted[other[0]]
        raise InputError(f"{run.location}: instruction {name} has {now} tokens that count, but the run says "
                         f"{run.token_count[rows][other[0]]}")  # fmt: skip
    return texts


def captured_template(run: Run, tokenizer: Any) -> Template:
    """The template that a run was captured in.

    Raises:
      InputError: it renders otherwise by now.
    """
    captured = run.manifest.capture
    template = make_template(captured["template"], tokenizer)
    if template.digest != captured["template_digest"]:
        raise InputError(f"{run.location}: was captured with another rendering of template {captured['template']!r}; "
                         f"one that states the date is another every day: capture again")  # fmt: skip
    return template
