"""Plain text that every machine with Python has: the standard library's source and its documentation strings."""

import ast
import sysconfig
from pathlib import Path

LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "encodings", "__pycache__", "turtledemo"}


def library_text(characters: int) -> list[str]:
    """Reads documentation strings and source files in a fixed order.

    Args:
      characters: how much text is wanted, half of it documentation, half source.

    Returns:
      Documents; together they have at least `characters` characters if the library is that large.
    """
    root = Path(sysconfig.get_path("stdlib"))
    documentation: list[str] = []
    source: list[str] = []
    written = {"documentation": 0, "source": 0}
    for path in sorted(root.rglob("*.py")):
        if LEFT_OUT & set(path.relative_to(root).parts):
            continue
        try:
            text = path.read_text(encoding="utf-8")
            tree = ast.parse(text)
        except (UnicodeDecodeError, SyntaxError):  # a few files of the library are broken on purpose
            continue
        if written["source"] < characters // 2:
            source.append(text)
            written["source"] += len(text)
        nodes = (n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef))
        described = "\n\n".join(filter(None, (ast.get_docstring(node) for node in nodes)))
        if described:
            documentation.append(described)
            written["documentation"] += len(described)
        if min(written.values()) >= characters // 2:
            break
    return documentation + source
