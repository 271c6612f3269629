"""The HTML document around a page, which needs nothing else, not even a network."""

import base64
import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import resources

import vl_convert


def document(first: Iterable[str], rest: Iterable[str]) -> str:
    """A whole document, in which only the scripts that are part of it can run.

    Args:
      first: the pieces of HTML that its body begins with, whose charts are drawn before the rest is read.
      rest: those that follow.
    """
    library, charts, page = _library(), _file("charts.js"), _file("page.js")
    policy = "; ".join((
        "default-src 'none'", f"script-src {' '.join(map(script_hash, (library, charts, page)))}",
        "style-src 'unsafe-inline'", "img-src data: blob:", "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
    return "\n".join((
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>SPARCOM report</title>\n<style>{_file('page.css')}</style>\n</head>\n<body>",
        *first,
        f"<script>{library}</script>\n<script>{charts}</script>",
        *rest,
        f"<script>{page}</script>\n</body>\n</html>\n",
    ))  # fmt: skip


def script_hash(script: str) -> str:
    """The name of a script in a content security policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def _file(name: str) -> str:
    """A file beside this one, on lines of its own."""
    return "\n" + resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and vega-embed, as one script without anything that could end it early."""
    bundle: Callable[..., str] = vl_convert.javascript_bundle  # its stub asks for an argument that is optional
    return bundle()
