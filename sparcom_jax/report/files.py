"""Writes what the report leaves on disk: each file whole or not at all."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import vl_convert

from sparcom_jax.errors import InputError
from sparcom_jax.report.markup import Figure, Section


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file by way of a temporary one beside it.

    Args:
      path: the file; its directory is made.
      content: what it holds.

    Raises:
      InputError: it cannot be written there.
    """
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished.write_bytes(content)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def write_figures(sections: Sequence[Section], directory: Path) -> list[Path]:
    """Writes every chart as SVG and as PDF, named after its section and what it shows.

    Args:
      sections: those of the page.
      directory: where to.

    Returns:
      The files.

    Raises:
      InputError: they cannot be written there.
    """
    written: list[Path] = []
    for section in sections:
        for part in section.parts:
            if isinstance(part, Figure):
                stem = re.sub(r"[^A-Za-z0-9]+", "-", f"{section.title}-{part.name}").strip("-")
                if directory / f"{stem}.svg" in written:
                    stem = f"{stem}-{len(written)}"
                svg = vl_convert.vegalite_to_svg(part.spec).encode()
                for suffix, content in ((".svg", svg), (".pdf", vl_convert.vegalite_to_pdf(part.spec))):
                    written.append(directory / f"{stem}{suffix}")
                    write_whole(written[-1], content)
    return written
