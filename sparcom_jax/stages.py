"""Stages of long work, each made once: again only if what it reads has changed, or what it made is gone."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.progress import say


class Stages:
    """Remembers by which settings, and from what, every stage was made.

    A stage has a marker, a JSON file of its settings, of the digests of its inputs, and of the digest of what it made;
    the last is null until it is finished.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._directory.mkdir(parents=True, exist_ok=True)

    def made(self, name: str) -> str | None:
        """The digest of what a stage made, whatever has become of that; None where it is not finished."""
        was = read_marker(self._directory / f"{name}.json")
        return was["output"] if was else None

    def run(
        self,
        name: str,
        settings: dict[str, Any],
        inputs: dict[str, str | None],
        work: Callable[[], object],
        made: Callable[[], str],
        stale: Path | None = None,
    ) -> str:
        """Runs a stage unless it is finished, from the same inputs, and what it made is still there.

        Args:
          name: of the stage.
          settings: that it is made by.
          inputs: digests of what it reads; None where that cannot be told, and counts as unchanged.
          work: makes the stage; where it was cut off, it goes on or begins anew.
          made: digest of what lies there; an `InputError` or `OSError` if nothing does.
          stale: a directory in which `work` goes on, and refuses to if it was begun from other inputs: it is deleted
            when these have changed.

        Returns:
          The digest of what the stage made.

        Raises:
          InputError: it was made with other settings, or the work cannot be done.
        """
        marker = self._directory / f"{name}.json"
        now = {"settings": json.loads(json.dumps(settings)), "inputs": inputs}
        was = read_marker(marker)
        if was:
            other = difference(was["settings"], now["settings"])
            if other and (was["output"] is not None or stale):
                also = f" and {stale}" if stale else ""
                raise InputError(f"{marker}: stage {name} was made with other settings ({other}); choose another "
                                 f"--output, or delete this file{also} to make the stage again, and after it whatever "
                                 f"reads what it made")  # fmt: skip
            changed = [what for what, digest in inputs.items() if digest not in (None, was["inputs"].get(what))]
            if changed:
                say(f"{name}: is made again, because of another {' and '.join(changed)}")
                if stale is not None and stale.exists():
                    say(f"{stale}: was made of that and is deleted")
                    shutil.rmtree(stale)
            elif was["output"] is not None:
                if _found(made) == was["output"]:
                    say(f"{name}: finished before")
                    return str(was["output"])
                say(f"{name}: is made again, because what it made is gone or was changed")
        say(f"{name} ...")
        write_marker(marker, now | {"output": None})
        try:
            work()
        except InputError:
            if was is None:  # what lies there may be another's, and is not to be deleted as this stage's
                marker.unlink()
            raise
        output = made()
        write_marker(marker, now | {"output": output})
        return output


def digest_of_files(*directories: Path) -> str:
    """Digest of the names and contents of all files below directories.

    Raises:
      InputError: a directory has none.
    """
    digest = hashlib.sha256()
    for directory in directories:
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        if not files:
            raise InputError(f"{directory}: no files")
        for path in files:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{path.relative_to(directory).as_posix()}\n{content}\n".encode())
    return digest.hexdigest()


def digest_of_listing(location: Path) -> str | None:
    """Digest of the names, sizes and times of a directory's files, or of one file: contents may be too large to read.

    Returns:
      None where there is nothing.
    """
    files = sorted(location.iterdir()) if location.is_dir() else [location]
    listed = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
    return hashlib.sha256(json.dumps(listed).encode()).hexdigest() if listed else None


def read_marker(marker: Path) -> dict[str, Any] | None:
    """The marker of a stage, whose `output` is null until the stage is finished; None where there is none.

    Raises:
      InputError: it is not as this version writes it.
    """
    try:
        content = json.loads(marker.read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        content = None
    if not isinstance(content, dict) or content.keys() != {"settings", "inputs", "output"}:
        raise InputError(f"{marker}: not the marker of a stage as this version writes it; delete it to make the stage "
                         f"again")  # fmt: skip
    return content


def write_marker(marker: Path, content: dict[str, Any]) -> None:
    """Writes a marker: a reader sees the old one or the new, never a part."""
    partial = marker.with_suffix(".partial")
    partial.write_text(json.dumps(content, sort_keys=True, indent=1))
    partial.replace(marker)


def _found(made: Callable[[], str]) -> str | None:
    try:
        return made()
    except (InputError, OSError):
        return None


def difference(was: Any, now: Any, field: str = "") -> str | None:
    """The first field in which settings differ, with both values."""
    if isinstance(was, dict) and isinstance(now, dict):
        below = f"{field}." if field else ""
        found = (difference(was.get(key), now.get(key), f"{below}{key}") for key in sorted({*was, *now}))
        return next((one for one in found if one), None)
    return None if was == now else f"{field} {was!r}, now {now!r}"
