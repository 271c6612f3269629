"""JSON that means one thing: Python's own reader lets pass what others do not, and what cannot be written again."""

import json
import math
import sys
from typing import Any

from sparcom_jax.errors import InputError

MOST_NESTED = 100


class _GivenTwice(Exception):
    """A name of an object."""


def loads(text: str | bytes, where: str) -> Any:
    """Reads JSON.

    NaN, Infinity and lone surrogates are read as Python reads them; `require_plain` refuses them.

    Args:
      text: the JSON; bytes are UTF-8, with or without a byte order mark.
      where: the file, or file and line, for the message.

    Raises:
      InputError: it is not JSON, or an object has a name twice.
    """
    try:
        decoded = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        return json.loads(decoded, object_pairs_hook=_object)
    except _GivenTwice as error:
        raise InputError(f"{where}: field {error.args[0]!r} is given twice") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where}: not JSON: {' '.join(str(error).split())}") from error


def require_plain(value: Any, where: str, field: str = "", depth: int = 0) -> None:
    """Refuses what no text in UTF-8 and no JSON can hold, lone surrogates and numbers that are not finite, and depths.

    Args:
      value: what was read.
      where: the file, or file and line, for the message.
      field: where the value stands within what was read, for the message.
      depth: how many objects and lists are around it.

    Raises:
      InputError: it names the field.
    """
    if depth > MOST_NESTED:
        raise InputError(f"{where}: field {field.split('.')[0].split('[')[0]!r} is nested more than {MOST_NESTED} deep")
    if isinstance(value, dict):
        for name, inner in value.items():
            within = f"{field}.{name}" if field else name
            require_plain(name, where, within)
            require_plain(inner, where, within, depth + 1)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            require_plain(inner, where, f"{field}[{index}]", depth + 1)
    elif isinstance(value, str):
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InputError(f"{where}: field {field!r} holds half of a surrogate pair, which is no character")
    elif isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{where}: field {field!r} must be a finite number, not {value}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _GivenTwice(name)
        made[sys.intern(name)] = value  # names are kept once, however many objects have them
    return made
