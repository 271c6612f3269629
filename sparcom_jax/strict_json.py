"""JSON in which every object has each of its names once; Python's own reader keeps the last and says nothing."""

import json
import sys
from typing import Any

from sparcom_jax.errors import InputError


class _GivenTwice(Exception):
    """A name of an object."""


def loads(text: str | bytes, where: str) -> Any:
    """Reads JSON.

    NaN, Infinity and lone surrogates are read as Python reads them; who minds them looks for them.

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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _GivenTwice(name)
        made[sys.intern(name)] = value  # names are kept once, however many objects have them
    return made
