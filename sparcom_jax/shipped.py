"""What ships with the package beside its modules, launchers and configs; and the commands of `sparcom`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
OWN = ("completion", "status")
"""Commands that are modules of the package; the others are launchers."""


def shipped(folder: str) -> dict[str, Path]:
    """The Python files of `launch` or `configs`: within the package once it is installed, beside it in a clone.

    Args:
      folder: which of the two.

    Returns:
      Name -> file, by name.
    """
    within = PACKAGE / folder
    found = within if within.is_dir() else PACKAGE.parent / folder
    return {path.stem: path for path in sorted(found.glob("*.py"))}


def commands() -> dict[str, str]:
    """The docstring of every command, by name."""
    files = shipped("launch") | {name: PACKAGE / f"{name}.py" for name in OWN}
    return {name: docstring(path) for name, path in sorted(files.items())}


def docstring(path: Path) -> str:
    """The docstring of a Python file, which is not run."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
