"""What a summary is made of: text and numbers, not yet laid out."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from sparcom_jax.results.numbers import Number

Cell = str | Number | None
"""Of a table; None where it is not defined."""


@dataclass(frozen=True)
class Table:
    """Numbers in rows.

    Attributes:
      columns: their headings.
      rows: a cell for each column.
      title: one line above it; empty for none.
      what: what a row is, in the plural.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    title: str = ""
    what: str = "categories"


@dataclass(frozen=True)
class Summary:
    """What a command made, and what that shows.

    Attributes:
      title: the command, and what it made.
      facts: what is known of it as a whole, name and value.
      tables: what it shows.
      warnings: what makes that weak, in sentences.
      next: commands that go on from there, each as its words (`command`).
    """

    title: str
    facts: Sequence[tuple[str, str]] = ()
    tables: Sequence[Table] = ()
    warnings: Sequence[str] = ()
    next: Sequence[Sequence[str]] = ()


def command(name: str, **flags: str) -> list[str]:
    """A command line, as the words that a shell takes.

    Args:
      name: of the command of `sparcom`.
      **flags: its flags; what the user is to fill in is a word in capitals.
    """
    return [f"sparcom {name}", *(f"--{flag}={shlex.quote(value)}" for flag, value in flags.items())]
