"""What stands around an instruction when the model reads it.

- `none`: nothing. Special tokens are those that `tokenizer(text)` adds.
- `plain`: "Instruction:" before and "Response:" after it, each on a line of its own. Special tokens as before.
- `chat`: the tokenizer's own chat template, with the instruction as the one turn of the user, and the prompt for the
  answer. Special tokens are those of the template; the begin-of-text token is put before it where the template lacks it
  and `tokenizer(text)` would add it, so that it is there exactly once.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sparcom_jax.errors import InputError

TEMPLATES = ("none", "plain", "chat")
PLAIN = ("Instruction:\n", "\n\nResponse:\n")
MARK = "\ue000tHe worDs\ue001"
"""Stands for an instruction; a template that changes case or space would change it."""


@dataclass(frozen=True)
class Template:
    """A template as text.

    Attributes:
      name: one of `TEMPLATES`.
      prefix: text before the instruction.
      suffix: text after it.
      strips: whether space around the instruction is removed.
      adds_special: whether the tokenizer adds its special tokens to the rendered text.
      begin: a token to put before the rendered text; none for most.
      separator: text between what is read and a response.
      chat: gives the text that the tokenizer's chat template makes of an instruction; None for other templates.
    """

    name: str
    prefix: str = ""
    suffix: str = ""
    strips: bool = False
    adds_special: bool = True
    begin: int | None = None
    separator: str = ""
    chat: Callable[[str], str] | None = field(default=None, compare=False, repr=False)

    @property
    def digest(self) -> str:
        """Digest of all that the template adds; one that states the date changes from day to day."""
        parts = [self.name, self.prefix, self.suffix, self.strips, self.adds_special, self.begin, self.separator]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def render(self, instruction: str) -> tuple[str, int, int]:
        """The text that is read, and where the instruction begins and ends in it, in characters.

        Raises:
          InputError: the chat template fails on this instruction, or makes something else of it than of others.
        """
        words = instruction.strip() if self.strips else instruction
        text = f"{self.prefix}{words}{self.suffix}"
        if self.chat is not None and self.chat(instruction) != text:
            raise InputError("capture.template: the chat template changes these words, or what stands around them")
        return text, len(self.prefix), len(self.prefix) + len(words)


def make_template(name: str, tokenizer: Any) -> Template:
    """Makes a template.

    Args:
      name: one of `TEMPLATES`.
      tokenizer: a transformers tokenizer.

    Raises:
      InputError: the name is unknown, or the tokenizer has no chat template or one that cannot be used.
    """
    if name not in TEMPLATES:
        raise InputError(f"capture.template {name!r} is not known; known: {', '.join(TEMPLATES)}")
    if name == "none":
        return Template(name, separator="\n")
    if name == "plain":
        return Template(name, *PLAIN)
    if not getattr(tokenizer, "chat_template", None):
        raise InputError("capture.template is 'chat', but the tokenizer has no chat template; use 'plain' or 'none'")
    chat = partial(_render_chat, tokenizer)
    around = chat(MARK).split(MARK)
    if len(around) != 2:
        raise InputError(f"capture.template: the chat template holds the user's turn {len(around) - 1} times, not once")
    prefix, suffix = around
    spaced = chat(f"  {MARK}\n")
    strips = spaced == f"{prefix}{MARK}{suffix}"
    if not strips and spaced != f"{prefix}  {MARK}\n{suffix}":
        raise InputError("capture.template: the chat template changes the user's words")
    begin = _missing_begin(tokenizer, prefix)
    return Template(name, prefix, suffix, strips, adds_special=False, begin=begin, chat=chat)


def _render_chat(tokenizer: Any, words: str) -> str:
    turn = [{"role": "user", "content": words}]
    try:
        rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # jinja and the template's own raise_exception
        raise InputError(f"capture.template: the chat template fails: {error}") from error
    return str(rendered)


def _missing_begin(tokenizer: Any, prefix: str) -> int | None:
    """The begin-of-text token, if the tokenizer adds one to plain text and the template does not hold it."""
    begin = tokenizer.bos_token_id
    if begin is None or tokenizer("a")["input_ids"][:1] != [begin]:
        return None
    rendered = tokenizer(prefix, add_special_tokens=False)["input_ids"] if prefix else []
    return None if rendered[:1] == [begin] else int(begin)
