"""JSON that means one thing: Python's own reader lets pass what others do not, and what cannot be written again."""

import json
import math
import sys
from dataclasses import MISSING, fields, is_dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

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


def typed(kind: Any, value: Any, where: str, field: str = "") -> Any:
    """Reads what JSON holds as a value of a declared type.

    Args:
      kind: a dataclass, of which an object has every field that has no default; `list[...]`, `dict[str, ...]`,
        `... | None`, `Any`, or a type that JSON has itself.
      value: what was read. Names of an object that the dataclass does not have are left alone.
      where: the file, for the message.
      field: where the value stands within what was read, for the message.

    Raises:
      InputError: it names the field that is missing or of another type.
    """
    origin, arguments = get_origin(kind) or kind, get_args(kind)
    if kind is Any or (is_dataclass(kind) and isinstance(value, kind)):  # type: ignore[arg-type]
        return value
    if origin is UnionType:
        return None if value is None else typed(arguments[0], value, where, field)
    if is_dataclass(kind):
        return _record(kind, typed(dict[str, Any], value, where, field), where, f"{field}." if field else "")
    if type(value) is not origin and not (kind is float and type(value) is int):
        raise InputError(f"{where}: field {field!r} must be of type {origin.__name__}, not {value!r}")
    if origin is dict:
        return {name: typed(arguments[1], inner, where, f"{field}.{name}") for name, inner in value.items()}
    if origin is list:
        return [typed(arguments[0], inner, where, f"{field}[{index}]") for index, inner in enumerate(value)]
    return kind(value)


def _record(kind: Any, entries: dict[str, Any], where: str, prefix: str) -> Any:
    types = get_type_hints(kind)
    for one in fields(kind):
        if one.name not in entries and one.default is MISSING:
            raise InputError(f"{where}: no field {prefix + one.name!r}")
    return kind(**{one.name: typed(types[one.name], entries[one.name], where, prefix + one.name)
                   for one in fields(kind) if one.name in entries})  # fmt: skip


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, value in pairs:
        if name in made:
            raise _GivenTwice(name)
        made[sys.intern(name)] = value  # names are kept once, however many objects have them
    return made
