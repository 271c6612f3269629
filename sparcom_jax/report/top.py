"""The top of the page: what was analysed, what there is to see, and the headlines."""

from collections.abc import Iterator, Sequence

from sparcom_jax.report import ablate, align, compare, evaluate
from sparcom_jax.report.manifest import model_name
from sparcom_jax.report.markup import GROUPS, how_made, number, table, text
from sparcom_jax.results.reader import Result

HEADLINES = {
    "evaluate": evaluate.HEADLINES,
    "compare": compare.HEADLINES,
    "ablate": ablate.HEADLINES,
    "align": align.HEADLINES,
}
"""By kind of results, in the order of the page."""


def top(results: Sequence[Result]) -> str:
    """What the page is about: the results, their models and sets, the instructions, and the groups of units."""
    rows = [
        (result.kind, result.name, role, model_name(side), side["model"].get("num_layers"),
         how_made(side))
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


def contents(links: Sequence[tuple[str, str]]) -> str:
    """The contents of the page.

    Args:
      links: id and title of every section, the title as plain text.
    """
    items = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title in links)
    return f"<nav><strong>Contents</strong><ul>{items}</ul></nav>"


def headlines(results: Sequence[Result]) -> Iterator[str]:
    """A table for each kind of results that has something to say."""
    for kind, shown in HEADLINES.items():
        chosen = [result for result in results if result.kind == kind]
        rows = [row for result in chosen for row in shown.rows(result, *map(model_name, result.sides.values()))]
        if rows:
            yield table(shown.columns, rows, title=shown.title) + f"<p>{text(shown.meaning)}</p>"


def _instructions(results: Sequence[Result]) -> Iterator[str]:
    """Categories and numbers of instructions, once for each distinct list of them."""
    named: dict[str, list[str]] = {}
    for result in results:
        categories = result.summary["categories"]
        if "instructions" in result.summary:
            counts = result.summary["instructions"]
            kinds = ", ".join(f"{name} {number(count)}" for name, count in zip(categories, counts, strict=True))
            line = f"Instructions by category: {kinds}; {number(sum(counts))} in all"
        else:
            line = f"Categories: {', '.join(categories)}"
        named.setdefault(line, []).append(result.name)
    for line, names in named.items():
        yield f"<p>{text(line)} <span class='source'>({text(', '.join(names))})</span></p>"
