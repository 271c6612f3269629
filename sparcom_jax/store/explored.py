"""The cards of units that are stored beside a run, `RUN/explored/NAME.json`: what single units do."""

import json
from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.strict_json import loads

Card = dict[str, Any]
"""One unit, as docs/method.md describes it."""


def explored_path(name: str) -> str:
    """The file of the cards of a unit set, below its run."""
    return f"explored/{name}.json"


def write_explored(run: Run, name: str, content: dict[str, Any]) -> None:
    """Stores cards; they replace those of the same name.

    Args:
      run: the run.
      name: of the unit set whose units they are.
      content: the cards, below `cards`, and what they were made from.
    """
    told = {"schema_version": SCHEMA_VERSION, **content}
    run.store.write(explored_path(name), json.dumps(told, ensure_ascii=False, allow_nan=False).encode())


def explored_names(run: Run) -> list[str]:
    """The unit sets of a run that have cards."""
    found = (name.removeprefix("explored/") for name in run.store.names() if name.startswith("explored/"))
    return sorted(name.removesuffix(".json") for name in found if name.endswith(".json"))


def open_explored(run: Run | str | Path, name: str) -> dict[str, Any]:
    """The cards of a unit set, below `cards`, and what they were made from.

    Raises:
      InputError: the run has none, or they were written with another schema.
    """
    run = as_run(run)
    where = f"{run.location}/{explored_path(name)}"
    raw = run.store.read(explored_path(name))
    if raw is None:
        raise InputError(f"{where}: the units {name!r} are not explored (run explore first)")
    content: Any = loads(raw, where)
    if not isinstance(content, dict) or content.pop("schema_version", None) != SCHEMA_VERSION:
        raise InputError(f"{where}: not of the schema that this version reads; run explore again")
    if content.get("run_digest") != run.digest:
        raise InputError(f"{where}: was made of another run (of another model, or of other instructions or settings)")
    return content
