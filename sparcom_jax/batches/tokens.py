"""From text to token ids: what the model reads, and which tokens count."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64

from sparcom_jax.batches.templates import Template
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.instructions.rows import InstructionSet

TEXTS_AT_ONCE = 512
SCOPES = ("prompt", "instruction", "response", "generated")

# What sets the longest text, in the words of a message.
OF_MODEL = "the model's limit"
OF_COUNTS = "the most that a count can hold"
OF_SETTING = "the limit that capture.max_tokens sets"


class Limit(NamedTuple):
    """The longest text that is fed.

    Attributes:
      tokens: how long it is.
      source: what sets it, in the words of a message.
    """

    tokens: int
    source: str = OF_MODEL


@dataclass(frozen=True)
class Reader:
    """How a model reads texts.

    Attributes:
      tokenizer: a transformers tokenizer.
      template: what stands around an instruction.
      vocab_size: rows of the model's embedding.
      limit: the longest text.
    """

    tokenizer: Any
    template: Template
    vocab_size: int
    limit: Limit


@dataclass(frozen=True)
class TokenizedSet:
    """Token ids of each text, in order.

    Attributes:
      ids: one array a text, never empty.
      first_counted: position from which the tokens of each text count.
      end_counted: position before which they count.
      truncated: rows of which tokens were cut off, with the number of tokens that they had.
    """

    ids: list[Int32[np.ndarray, "_"]]
    first_counted: Int32[np.ndarray, "I"]
    end_counted: Int32[np.ndarray, "I"]
    truncated: dict[int, int]

    @property
    def lengths(self) -> Int32[np.ndarray, "I"]:
        """Tokens that are fed, of each text."""
        return np.asarray([len(ids) for ids in self.ids], np.int32)

    @property
    def counted(self) -> Int32[np.ndarray, "I"]:
        """T_i, the tokens that count, of each text."""
        return self.end_counted - self.first_counted

    def counting(self, text: int) -> Bool[np.ndarray, "_"]:
        """The positions of a text that count."""
        position = np.arange(len(self.ids[text]))
        return (position >= self.first_counted[text]) & (position < self.end_counted[text])

    def predicting(self, text: int) -> Bool[np.ndarray, "_"]:
        """The positions of a text whose next token counts: what a loss is summed over."""
        following = np.arange(1, len(self.ids[text]) + 1)
        return (following >= self.first_counted[text]) & (following < self.end_counted[text])

    def of(self, rows: Int64[np.ndarray, "_"]) -> "TokenizedSet":
        """Some of the texts."""
        truncated = {place: self.truncated[row] for place, row in enumerate(rows.tolist()) if row in self.truncated}
        return TokenizedSet(
            [self.ids[row] for row in rows], self.first_counted[rows], self.end_counted[rows], truncated
        )

    def last(self, window: int) -> "TokenizedSet":
        """The same texts, of which only the last so many counted tokens count; 0 leaves all."""
        if not window:
            return self
        first = np.maximum(self.first_counted, self.end_counted - window).astype(np.int32)
        return replace(self, first_counted=first)


def tokenize_prompts(
    instructions: InstructionSet, reader: Reader, *, scope: str = "prompt", truncate: bool = False
) -> TokenizedSet:
    """Tokenises the instructions within their template.

    Args:
      instructions: the rows.
      reader: how the model reads them.
      scope: `instruction` counts the tokens with a character of the user's words, which no special token has; with
        others every token of the prompt counts.
      truncate: whether longer texts are cut at the end; otherwise they are refused.

    Raises:
      InputError: a text is too long or has no tokens to count, the template does not hold a row's words as they are, or
        the tokenizer does not fit the model.
    """
    tokenizer, template, max_tokens = reader.tokenizer, reader.template, reader.limit.tokens
    own = scope == "instruction"
    if own and not tokenizer.is_fast:
        raise InputError("capture.scope is 'instruction', which needs a fast tokenizer; this one gives no offsets")
    begin = [] if template.begin is None else [template.begin]
    ids: list[Int32[np.ndarray, "_"]] = []
    words: list[tuple[int, int]] = []  # where a row's words stand in its text
    own_spans = []
    for tokens, offsets in _encoded(tokenizer, _rendered(instructions, template, words), template.adds_special, own):
        start, stop = words[len(ids)]
        ids.append(np.asarray(begin + tokens, np.int32))
        if own:
            own_spans.append(_span(offsets, start, stop, len(begin), min(ids[-1].size, max_tokens)))
    names = [row["id"] for row in instructions.rows]
    require_vocabulary(ids, names, reader.vocab_size, instructions.source)
    too_long = {row: tokens.size for row, tokens in enumerate(ids) if tokens.size > max_tokens}
    if too_long and not truncate:
        listed = [f"{names[row]} ({size})" for row, size in too_long.items()]
        cut = template.name == "none" and scope in ("prompt", "instruction")
        what = f"{instructions.source}: {len(too_long)} instructions are longer than"
        raise InputError(what + too_long_for(reader.limit, listed, cut))
    ids = [tokens[:max_tokens] for tokens in ids]
    spans = own_spans if own else [(0, len(tokens)) for tokens in ids]
    empty = [name for name, (first, end) in zip(names, spans, strict=True) if first >= end]
    if empty:
        raise InputError(f"{instructions.source}: no tokens left of {first_of(empty)}")
    first, end = (np.asarray(part, np.int32) for part in zip(*spans, strict=True))
    return TokenizedSet(ids, first, end, too_long)


def tokenize_responses(
    instructions: InstructionSet, prompts: TokenizedSet, reader: Reader, *, end: bool
) -> TokenizedSet:
    """Appends each reference response to its prompt, for teacher forcing.

    What is read is the prompt's tokens as captured, then `tokenizer(separator + response)` without special tokens,
    then, if asked for, the end-of-sequence token where the tokenizer has one. The tokens that follow the prompt count.

    Args:
      instructions: the rows, each with a response.
      prompts: their tokenised prompts.
      reader: how the model reads them; its template has the separator between prompt and response.
      end: whether the end-of-sequence token follows.

    Raises:
      InputError: a row has no response, a text is too long, or the tokenizer does not fit the model.
    """
    tokenizer = reader.tokenizer
    names = [row["id"] for row in instructions.rows]
    without = [row["id"] for row in instructions.rows if not row.get("response")]
    if without:
        raise InputError(f"{instructions.source}: field 'response' is missing or empty in {first_of(without)}")
    responses = (reader.template.separator + row["response"] for row in instructions.rows)
    closing = [tokenizer.eos_token_id] if end and tokenizer.eos_token_id is not None else []
    encoded = _encoded(tokenizer, responses, False, False)
    texts = extended(prompts, [np.asarray(response + closing, np.int32) for response, _ in encoded])
    too_long = [
        f"{name} ({size})" for name, size in zip(names, texts.lengths, strict=True) if size > reader.limit.tokens
    ]
    if too_long:
        what = f"{instructions.source}: prompt and response are longer than"
        raise InputError(what + too_long_for(reader.limit, too_long))
    require_vocabulary(texts.ids, names, reader.vocab_size, instructions.source)
    return texts


def token_limit(asked: int, positions: int, countable: int) -> Limit:
    """The longest text that a capture feeds, and what sets that limit.

    Args:
      asked: `capture.max_tokens`; 0 where nothing is asked for.
      positions: tokens that the model can read.
      countable: tokens that can be counted.
    """
    limits = [Limit(positions), Limit(countable, OF_COUNTS), *([Limit(asked, OF_SETTING)] if asked else [])]
    return min(limits, key=lambda limit: limit.tokens)


def too_long_for(limit: Limit, texts: list[str], cut: bool = False) -> str:
    """The end of a message about texts that are too long, with what can be done.

    Args:
      limit: the longest text.
      texts: the texts, with their lengths.
      cut: whether they may be cut at their ends.
    """
    remedies = ["raise capture.max_tokens"] if limit.source == OF_SETTING else []
    remedies += ["set capture.truncate"] if cut else []
    return f" {limit.tokens} tokens, {limit.source}: {first_of(texts)}; {' or '.join([*remedies, 'leave them out'])}"


def extended(prompts: TokenizedSet, added: list[Int32[np.ndarray, "_"]]) -> TokenizedSet:
    """The texts that begin with prompts and go on with what was added, which alone counts."""
    ids = [np.concatenate([prompt, more]) for prompt, more in zip(prompts.ids, added, strict=True)]
    return TokenizedSet(ids, prompts.lengths, np.asarray([len(text) for text in ids], np.int32), {})


def _rendered(instructions: InstructionSet, template: Template, words: list[tuple[int, int]]) -> Iterator[str]:
    """The text of each row; where its words stand in it is added to `words`."""
    for row in instructions.rows:
        try:
            text, start, stop = template.render(row["instruction"])
        except InputError as error:
            raise InputError(f"{instructions.source}: {row['id']!r}: {error}") from error
        words.append((start, stop))
        yield text


def _encoded(
    tokenizer: Any, texts: Iterator[str], adds_special: bool, offsets: bool
) -> Iterator[tuple[list[int], list[tuple[int, int]]]]:
    """Token ids and, if asked for, where each token stands in its text."""
    # Not all at once: what a tokenizer returns of a text takes a hundred times as much memory as its ids.
    while part := list(itertools.islice(texts, TEXTS_AT_ONCE)):
        encoded = tokenizer(part, add_special_tokens=adds_special, return_offsets_mapping=offsets, verbose=False)
        yield from zip(encoded["input_ids"], encoded["offset_mapping"] if offsets else [[]] * len(part), strict=True)


def token_text(tokenizer: Any, token: int) -> str:
    """The text of a token, with the space that SentencePiece would leave out at the beginning of a text."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if isinstance(piece, str) and piece.startswith("▁"):
        return piece.replace("▁", " ")
    return str(tokenizer.decode([token]))


def _span(offsets: list[tuple[int, int]], start: int, stop: int, before: int, length: int) -> tuple[int, int]:
    """The tokens that overlap the characters `start` to `stop`; special tokens have no characters."""
    own = [before + index for index, (a, b) in enumerate(offsets) if a < b and a < stop and b > start]
    return (own[0], min(own[-1] + 1, length)) if own else (0, 0)


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
