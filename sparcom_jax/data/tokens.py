"""From text to token ids: what the model reads, and which tokens count."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int32

from sparcom_jax.data.instructions import InstructionSet
from sparcom_jax.errors import InputError, first_of


@dataclass(frozen=True)
class TokenizedSet:
    """Token ids of each text, in order.

    Attributes:
      ids: one array a text, never empty.
      first_counted: position from which the tokens of each text count.
      truncated: rows of which tokens were cut off, with the number of tokens that they had.
    """

    ids: list[Int32[np.ndarray, "_"]]
    first_counted: Int32[np.ndarray, "I"]
    truncated: dict[int, int]

    @property
    def lengths(self) -> Int32[np.ndarray, "I"]:
        """Tokens that are fed, of each text."""
        return np.asarray([len(ids) for ids in self.ids], np.int32)

    @property
    def counted(self) -> Int32[np.ndarray, "I"]:
        """T_i, the tokens that count, of each text."""
        return self.lengths - self.first_counted

    def predicting(self, text: int) -> Bool[np.ndarray, "_"]:
        """The positions of a text whose next token counts: what a loss is summed over."""
        following = np.arange(1, len(self.ids[text]) + 1)
        return (following >= self.first_counted[text]) & (following < len(following))


def tokenize_prompts(
    instructions: InstructionSet, tokenizer: Any, *, vocab_size: int, max_tokens: int, truncate: bool, count_window: int
) -> TokenizedSet:
    """Tokenises the instructions exactly as `tokenizer(instruction)` does, special tokens included.

    Args:
      instructions: the rows.
      tokenizer: a transformers tokenizer.
      vocab_size: rows of the model's embedding.
      max_tokens: longest text that is fed.
      truncate: whether longer texts are cut at the end; otherwise they are refused.
      count_window: count only the last so many tokens of each text; 0 counts all.

    Raises:
      InputError: a text is too long or has no tokens, or the tokenizer does not fit the model.
    """
    encoded = tokenizer([row["instruction"] for row in instructions.rows], verbose=False)["input_ids"]
    ids = [np.asarray(tokens, np.int32) for tokens in encoded]
    names = [row["id"] for row in instructions.rows]
    empty = [name for name, tokens in zip(names, ids, strict=True) if not tokens.size]
    if empty:
        raise InputError(f"{instructions.source}: no tokens left of {first_of(empty)}")
    require_vocabulary(ids, names, vocab_size, instructions.source)
    too_long = {row: tokens.size for row, tokens in enumerate(ids) if tokens.size > max_tokens}
    if too_long and not truncate:
        listed = first_of([f"{names[row]} ({size})" for row, size in too_long.items()])
        raise InputError(
            f"{instructions.source}: {len(too_long)} instructions are longer than {max_tokens} tokens: {listed}; "
            f"raise capture.max_tokens or set capture.truncate"
        )
    ids = [tokens[:max_tokens] for tokens in ids]
    lengths = np.asarray([tokens.size for tokens in ids], np.int32)
    first = np.maximum(lengths - count_window, 0) if count_window else np.zeros_like(lengths)
    return TokenizedSet(ids, first.astype(np.int32), too_long)


def tokenize_responses(
    instructions: InstructionSet,
    prompts: TokenizedSet,
    tokenizer: Any,
    *,
    vocab_size: int,
    max_tokens: int,
    separator: str,
) -> TokenizedSet:
    """Appends each reference response to its prompt, for teacher forcing.

    What is read is the prompt's tokens as captured, then `tokenizer(separator + response)` without special tokens, then
    the end-of-sequence token where the tokenizer has one. The counted tokens are those that follow the prompt.

    Args:
      instructions: the rows, each with a response.
      prompts: their tokenised prompts.
      tokenizer: a transformers tokenizer.
      vocab_size: rows of the model's embedding.
      max_tokens: longest text that the model can read.
      separator: text between instruction and response.

    Raises:
      InputError: a row has no response, a text is too long, or the tokenizer does not fit the model.
    """
    names = [row["id"] for row in instructions.rows]
    without = [row["id"] for row in instructions.rows if not row.get("response")]
    if without:
        raise InputError(f"{instructions.source}: field 'response' is missing or empty in {first_of(without)}")
    texts = [separator + row["response"] for row in instructions.rows]
    encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    ids = [
        np.concatenate([prompt, np.asarray(response + end, np.int32)])
        for prompt, response in zip(prompts.ids, encoded, strict=True)
    ]
    too_long = [f"{name} ({len(text)})" for name, text in zip(names, ids, strict=True) if len(text) > max_tokens]
    if too_long:
        raise InputError(
            f"{instructions.source}: prompt and response are longer than {max_tokens} tokens: {first_of(too_long)}"
        )
    require_vocabulary(ids, names, vocab_size, instructions.source)
    return TokenizedSet(ids, prompts.lengths, {})


def require_vocabulary(ids: list[Int32[np.ndarray, "_"]], names: list[str], vocab_size: int, source: str) -> None:
    """Refuses token ids that the model has no embedding for.

    Raises:
      InputError: it names the first text with such a token.
    """
    for name, tokens in zip(names, ids, strict=True):
        if tokens.size and tokens.max() >= vocab_size:
            raise InputError(
                f"{source}: {name!r} has token {int(tokens.max())}, but the model's vocabulary has {vocab_size} "
                f"rows: the tokenizer does not fit the model"
            )
