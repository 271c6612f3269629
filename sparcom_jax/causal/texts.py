"""The texts that are scored: prompts as they were captured, each followed by its reference response."""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, TokenizedSet, tokenize_prompts, tokenize_responses
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.store.run import Run


def scored_rows(run: Run, per_category: int) -> Int64[np.ndarray, "S"]:
    """Which instructions are scored: the first `per_category` of each category, or all where that is 0."""
    rows = [np.flatnonzero(run.category == index) for index in range(len(run.categories))]
    return np.sort(np.concatenate([of[: per_category or len(of)] for of in rows]))


def scored_texts(model: ModelDir, run: Run, rows: Int64[np.ndarray, "S"]) -> TokenizedSet:
    """The texts of some instructions, of which the tokens after the prompt count.

    Args:
      model: the model, whose tokenizer reads them.
      run: the run, whose template they are rendered in.
      rows: which instructions.

    Raises:
      InputError: a response is missing, a text is too long, or the template renders otherwise than in the capture.
    """
    chosen = InstructionSet(run.location, [run.instructions[row] for row in rows], run.categories)
    tokenizer, config = model.tokenizer(), model.config
    captured = run.manifest.capture
    limit = min(captured["max_tokens"] or config.max_positions, config.max_positions)
    template = make_template(captured["template"], tokenizer)
    if template.digest != captured["template_digest"]:
        raise InputError(f"{run.location}: was captured with another rendering of template {captured['template']!r}; "
                         f"one that states the date is another every day: capture again")  # fmt: skip
    reader = Reader(tokenizer, template, config.vocab_size, Limit(limit))
    prompts = tokenize_prompts(chosen, reader, truncate=captured["truncate"])
    return tokenize_responses(chosen, prompts, replace(reader, limit=Limit(config.max_positions)), end=True)


def category_means(nll: Float64[np.ndarray, "S"], category: UInt8[np.ndarray, "S"], categories: int
                   ) -> Float64[np.ndarray, "C"]:  # fmt: skip
    """Mean over the instructions of each category.

    Args:
      nll: of each instruction.
      category: of each instruction.
      categories: how many there are.
    """
    return np.bincount(category, nll, categories) / np.maximum(np.bincount(category, minlength=categories), 1)
