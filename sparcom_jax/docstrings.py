"""What the docstring of a dataclass says of its fields: the help of the commands."""

import inspect
import re

LONGEST = 110
"""The most characters of a meaning that is shown whole; of a longer one, the first sentence is."""


def meanings(kind: type) -> dict[str, str]:
    """The meaning of each field, in one line, from the section `Attributes:` of the docstring of its dataclass.

    Args:
      kind: the dataclass.

    Returns:
      Field -> meaning, without the marks of code and the last full stop; in the order of the docstring.
    """
    section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    entries = re.split(r"^  (?=\w+:)", section, flags=re.MULTILINE)[1:]
    named = (" ".join(entry.split()).partition(": ") for entry in entries)
    return {name: _short(meaning) for name, _, meaning in named}


def _short(meaning: str) -> str:
    shown = meaning if len(meaning) <= LONGEST else re.split(r"(?<=\.)\s+(?=[A-Z`])", meaning, maxsplit=1)[0]
    return shown.replace("`", "").removesuffix(".")
