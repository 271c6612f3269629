"""The page: all results of a directory in one HTML file that needs nothing else, not even a network."""

import base64
import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import vl_convert

from sparcom_jax.report import ablate, compare, evaluate
from sparcom_jax.report.files import write_figures, write_whole
from sparcom_jax.report.manifest import manifest, model_name
from sparcom_jax.report.markup import (
    GROUPS,
    Figure,
    Section,
    figure,
    number,
    settings,
    table,
    text,
)
from sparcom_jax.report.results import OF_THE_SET, Result, find_results, made_of

SECTIONS = {"evaluate": evaluate.section, "compare": compare.section, "ablate": ablate.section}
"""By kind, in the order of the page: what makes its sections."""

STYLE = """
:root { color-scheme: light; }
body { max-width: 1100px; margin: 0 auto; padding: 24px 20px 60px; background: #fff; color: #1c1e21;
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; }
h1 { font-size: 28px; margin: 0 0 4px; }
h2 { font-size: 21px; margin: 48px 0 8px; padding-bottom: 4px; border-bottom: 2px solid #0072b2;
  overflow-wrap: anywhere; }
h3 { font-size: 17px; margin: 32px 0 6px; }
p { margin: 8px 0; max-width: 900px; }
nav { background: #f5f7f9; border: 1px solid #e3e7eb; border-radius: 6px; padding: 10px 18px; margin: 16px 0; }
nav ul { margin: 4px 0; padding-left: 18px; }
a { color: #005a92; }
code { font: 13px ui-monospace, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; margin: 6px 0; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px; text-align: left; vertical-align: top; border-bottom: 1px solid #e8ebee; max-width: 640px;
  overflow-wrap: break-word; }
th { font-weight: 600; border-bottom: 1px solid #9aa4ad; vertical-align: bottom; overflow-wrap: normal; }
.n { text-align: right; white-space: nowrap; }
th.n { white-space: normal; }
.title { font-weight: 600; font-size: 14px; margin-top: 18px; }
.source { color: #5a646d; font-size: 13px; }
figure { margin: 18px 0; }
.chart { overflow-x: auto; }
figcaption { font-size: 13px; color: #3c444b; max-width: 900px; margin-top: 4px; }
details { margin: 8px 0; }
summary { cursor: pointer; font-size: 14px; overflow-wrap: anywhere; }
dl.groups { display: grid; grid-template-columns: max-content 1fr; gap: 2px 14px; font-size: 14px; margin: 8px 0; }
dl.groups dd { margin: 0; }
"""

START = """
for (const data of document.querySelectorAll("script[data-chart]")) {
  const place = document.getElementById(data.dataset.chart);
  const actions = {export: true, source: false, compiled: false, editor: false};
  vegaEmbed(place, JSON.parse(data.textContent), {mode: "vega-lite", renderer: "svg", ast: true, actions: actions})
    .catch((error) => { place.textContent = "This chart cannot be drawn: " + error; });
}
"""

HOW_TO_READ = """
Within: mean Jaccard overlap (0 to 1) of the unit sets of two instructions of one category, its generality, averaged
over the categories. Between: the same for two instructions of different categories. By chance: what random sets of the
same size in every layer would overlap. Uniqueness: share (0 to 1) of a category's core units that are core to no other
category, averaged over the categories. General units: units in the cores of all categories. Instructions of a category
have units of their own where they overlap more within than between; both can exceed chance through general units.
"""
HOW_TO_READ_COMPARE = """
Jaccard: mean overlap (0 to 1) of an instruction's unit sets in the two models, averaged over the categories. Retained,
gained and lost: core units of the categories (count), summed over the categories.
"""
HOW_TO_READ_ABLATE = """
Mean change of the negative log-likelihood (nats per token) when the core units of a category, or as many random ones,
are switched off: on that category itself, and on the others.
"""


def report(results: Path, output: Path, figures: Path | None = None) -> Path:
    """Writes the report of all results below a directory.

    The same results give the same page, byte by byte.

    Args:
      results: searched recursively for what evaluate, compare and ablate wrote.
      output: the page, replaced as a whole.
      figures: directory for every chart as SVG and PDF; none are written by default.

    Returns:
      `output`.

    Raises:
      InputError: there are no results, one of them is malformed, or nothing can be written.
    """
    sections = [SECTIONS[result.kind](result) for result in find_results(results)]
    write_whole(output, _page(sections).encode("utf-8", "xmlcharrefreplace"))
    if figures is not None:
        write_figures(sections, figures)
    return output


def _page(sections: Sequence[Section]) -> str:
    library = _library()
    policy = "; ".join((
        "default-src 'none'", f"script-src {_digest(library)} {_digest(START)}", "style-src 'unsafe-inline'",
        "img-src data: blob:", "base-uri 'none'", "form-action 'none'",
    ))  # fmt: skip
    results = [section.result for section in sections]
    body = [_top(results), _contents(sections), *_headlines(results)]
    for at, section in enumerate(sections, 1):
        body.append(f'<section id="s{at}"><h2>{text(section.title)}</h2>')
        body += [figure(part, f"s{at}-{part.name}") if isinstance(part, Figure) else part for part in section.parts]
        body.append("</section>")
    body.append(f'<section id="manifest"><h2>Manifest</h2><p>What each run was captured from.</p>{manifest(results)}')
    body.append("</section>")
    return "\n".join((
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>SPARCOM report</title>\n<style>{STYLE}</style>\n</head>\n<body>",
        *body,
        f"<script>{library}</script>\n<script>{START}</script>\n</body>\n</html>\n",
    ))  # fmt: skip


def _top(results: Sequence[Result]) -> str:
    rows = [
        (result.kind, result.name, role, model_name(side), side["model"].get("num_layers"),
         settings(made_of(side), OF_THE_SET))
        for result in results for role, side in result.sides.items()
    ]  # fmt: skip
    glossary = "".join(f"<dt><code>{name}</code></dt><dd>{meaning}</dd>" for name, meaning in GROUPS.items())
    return (
        "<h1>SPARCOM report</h1><p>Which neurons and experts carry the following of each kind of instruction.</p>"
        + table(("kind", "result", "role", "model (family)", "layers", "set"), rows, title="What was analysed")
        + "".join(_instructions(results))
        + f'<p class="title">Groups of units</p><dl class="groups">{glossary}</dl>'
        + "<noscript><p>The charts need JavaScript; the tables are complete without it.</p></noscript>"
    )


def _instructions(results: Sequence[Result]) -> Iterator[str]:
    """Categories and numbers of instructions, once for each distinct list of them."""
    named: dict[str, list[str]] = {}
    for result in results:
        categories = result.summary["categories"]
        if result.kind == "evaluate":
            counts = result.summary["instructions"]
            kinds = ", ".join(f"{name} {number(count)}" for name, count in zip(categories, counts, strict=True))
            line = f"Instructions by category: {kinds}; {number(sum(counts))} in all"
        else:
            line = f"Categories: {', '.join(categories)}"
        named.setdefault(line, []).append(result.name)
    for line, names in named.items():
        yield f"<p>{text(line)} <span class='source'>({text(', '.join(names))})</span></p>"


def _contents(sections: Sequence[Section]) -> str:
    links = [("headlines", "What you see"), *((f"s{at}", section.title) for at, section in enumerate(sections, 1)),
             ("manifest", "Manifest")]  # fmt: skip
    items = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title in links)
    return f"<nav><strong>Contents</strong><ul>{items}</ul></nav>"


def _headlines(results: Sequence[Result]) -> Iterator[str]:
    yield '<section id="headlines"><h2>What you see</h2>'
    for module, meaning, title in (
        (evaluate, HOW_TO_READ, "Generality and uniqueness"),
        (compare, HOW_TO_READ_COMPARE, "Base and tuned"),
        (ablate, HOW_TO_READ_ABLATE, "Switched off"),
    ):
        kind = module.__name__.rsplit(".", 1)[1]
        chosen = [result for result in results if result.kind == kind]
        rows = [row for result in chosen for row in module.headlines(result, *map(model_name, result.sides.values()))]
        if rows:
            yield table(module.HEADLINES, rows, title=title) + f"<p>{text(' '.join(meaning.split()))}</p>"
    yield "</section>"


@lru_cache(maxsize=1)
def _library() -> str:
    """Vega, Vega-Lite and vega-embed, as one script without anything that could end it early."""
    bundle: Callable[..., str] = vl_convert.javascript_bundle  # its stub asks for an argument that is optional
    return bundle()


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
