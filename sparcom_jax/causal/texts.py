"""The texts that are scored: prompts as they were captured, each followed by its reference response."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int64, UInt8

from sparcom_jax.batches.tokens import Limit, Reader, TokenizedSet, tokenize_prompts, tokenize_responses
from sparcom_jax.capture.generate import require_steady_angles
from sparcom_jax.capture.texts import captured_template
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.subject import Subject
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.store.run import Run


@dataclass(frozen=True, eq=False)
class Scored:
    """What is scored.

    Attributes:
      rows: which instructions of the run.
      names: their ids.
      category: of each.
      sizes: instructions of each category.
      texts: prompts with their responses, whose tokens count.
      held_out: 1 where none of them chose the units, else 0.
    """

    rows: Int64[np.ndarray, "S"]
    names: Sequence[str]
    category: UInt8[np.ndarray, "S"]
    sizes: Int64[np.ndarray, "C"]
    texts: TokenizedSet
    held_out: int


def scored(model: ModelDir, run: Run, subject: Subject, settings: AblationSettings) -> Scored:
    """The texts that an ablation scores.

    Args:
      model: the model, whose tokenizer reads them.
      run: the run, whose template they are rendered in.
      subject: what is switched off, and which instructions chose it, which are held out.
      settings: which instructions are measured.

    Raises:
      InputError: no instructions are held out, or a category has none; a response is missing, a text is too long, or
        the template renders otherwise than in the capture.
    """
    rows = scored_rows(run, subject, settings)
    category = run.category[rows]
    sizes = np.bincount(category, minlength=len(run.categories))
    names = [run.instructions[row]["id"] for row in rows]
    return Scored(rows, names, category, sizes, texts_of(model, run, rows), int(settings.measured == "held_out"))


def scored_rows(run: Run, subject: Subject, settings: AblationSettings) -> Int64[np.ndarray, "S"]:
    """Which instructions are scored: of each category, of those held out or asked for, the first `per_category`.

    Raises:
      InputError: all instructions chose the units, so that none is held out, or a category has none to measure.
    """
    if subject.chose is None and settings.measured != "all":
        raise InputError(f"{run.location}: {subject.units.title} were chosen by all instructions, so none is held out; "
                         f"measured=all measures them all the same")  # fmt: skip
    eligible = np.ones(len(run.instructions), bool)
    if settings.measured != "all" and subject.chose is not None:
        eligible = subject.chose if settings.measured == "chosen" else ~subject.chose
    if empty := [name for index, name in enumerate(run.categories) if not (eligible & (run.category == index)).any()]:
        raise InputError(f"{run.location}: no instructions of {first_of(empty)} to measure on ({settings.measured})")
    return run.first_rows(settings.per_category, eligible)


def require_model_of(run: Run, model: ModelDir) -> None:
    """Refuses a model, or a tokenizer, that a run was not captured from.

    Raises:
      InputError: it is another one.
    """
    if run.manifest.model.digest != model.digest:
        raise InputError(f"{run.location}: was captured from another model than {model.path}")
    if run.manifest.tokenizer.digest != model.tokenizer_digest:
        raise InputError(f"{run.location}: was captured with another tokenizer than that of {model.path}")


def rows_beside(run: Run, measured: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "_"]:
    """Instructions with a response that are not measured; all that are, where there are no others."""
    beside = np.ones(len(run.instructions), bool)
    beside[measured] = False
    answered = np.asarray([bool(row.get("response")) for row in run.instructions])
    rows = np.flatnonzero(beside & answered)
    return rows if rows.size else measured


def donor_rows(run: Run, measured: Int64[np.ndarray, "S"]) -> Int64[np.ndarray, "_"]:
    """Instructions with a response that are not measured, of every category.

    Raises:
      InputError: a category has none, or there is no other category whose values its units could take.
    """
    rows = rows_beside(run, measured)
    left = np.bincount(run.category[np.setdiff1d(rows, measured)], minlength=len(run.categories))
    if empty := [name for name, count in zip(run.categories, left, strict=True) if not count]:
        raise InputError(f"{run.location}: how resample takes values of instructions that are not measured, and "
                         f"{first_of(empty)} has none with a response; measure fewer")  # fmt: skip
    if len(left) < 2:
        raise InputError(f"{run.location}: how resample takes values of other categories, and there is only one")
    return rows


def prompts_of(model: ModelDir, run: Run, rows: Int64[np.ndarray, "S"]) -> tuple[TokenizedSet, Reader]:
    """Prompts as they were captured.

    Args:
      model: the model, whose tokenizer reads them.
      run: the run, whose template they are rendered in.
      rows: which instructions.

    Returns:
      The prompts, and how they were read.

    Raises:
      InputError: a text is too long, or the template renders otherwise than in the capture.
    """
    tokenizer, config = model.tokenizer(), model.config
    captured = run.manifest.capture
    limit = min(captured["max_tokens"] or config.max_positions, config.max_positions)
    reader = Reader(tokenizer, captured_template(run, tokenizer), config.vocab_size, Limit(limit))
    return tokenize_prompts(_chosen(run, rows), reader, truncate=captured["truncate"]), reader


def require_room(
    model: ModelDir, run: Run, rows: Int64[np.ndarray, "S"], prompts: TokenizedSet, new_tokens: int
) -> None:
    """Refuses prompts that cannot be continued by so many tokens.

    Raises:
      InputError: a text would be longer than what the model reads, or its angles would change.
    """
    names = [run.instructions[row]["id"] for row in rows]
    sizes = zip(names, prompts.lengths + new_tokens, strict=True)
    if long := [name for name, size in sizes if size > model.config.max_positions]:
        raise InputError(f"{run.location}: prompt and {new_tokens} new tokens are longer than the model's "
                         f"{model.config.max_positions} positions: {first_of(long)}")  # fmt: skip
    require_steady_angles(model.config, prompts.lengths, new_tokens, names, run.location)


def texts_of(model: ModelDir, run: Run, rows: Int64[np.ndarray, "S"]) -> TokenizedSet:
    """Prompts with their responses, of which the tokens of the responses count.

    Args:
      model: the model, whose tokenizer reads them.
      run: the run, whose template they are rendered in.
      rows: which instructions.

    Raises:
      InputError: a response is missing, a text is too long, or the template renders otherwise than in the capture.
    """
    prompts, reader = prompts_of(model, run, rows)
    whole = replace(reader, limit=Limit(model.config.max_positions))
    return tokenize_responses(_chosen(run, rows), prompts, whole, end=True)


def _chosen(run: Run, rows: Int64[np.ndarray, "S"]) -> InstructionSet:
    return InstructionSet(run.location, [run.instructions[row] for row in rows], run.categories)
