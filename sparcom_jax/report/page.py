"""The report: all results of a directory on one page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparcom_jax.report import ablate, agree, align, answer, compare, evaluate, explore, sweep
from sparcom_jax.report.document import document
from sparcom_jax.report.files import write_figures, write_whole
from sparcom_jax.report.manifest import manifest
from sparcom_jax.report.markup import Figure, Section, figure, text
from sparcom_jax.report.top import contents, headlines, top
from sparcom_jax.results.reader import find_results

SECTIONS = {
    "evaluate": evaluate.section,
    "compare": compare.section,
    "sweep": sweep.section,
    "agree": agree.section,
    "ablate": ablate.section,
    "answer": answer.section,
    "align": align.section,
    "explore": explore.section,
}
"""By kind of results: what makes its sections."""


def report(results: str | Path, output: str | Path, figures: str | Path | None = None) -> Path:
    """Writes the report of all results below a directory.

    The same results give the same page, byte by byte.

    Args:
      results: searched recursively for the results of all analyses.
      output: the page, replaced as a whole.
      figures: directory for every chart as SVG and PDF; none are written by default.

    Returns:
      `output`.

    Raises:
      InputError: there are no results, one of them is malformed, or nothing can be written.
    """
    results, output = Path(results), Path(output)
    sections = [SECTIONS[result.kind](result) for result in find_results(results)]
    write_whole(output, document(_parts(sections)).encode("utf-8", "xmlcharrefreplace"))
    if figures is not None:
        write_figures(sections, Path(figures))
    return output


def _parts(sections: Sequence[Section]) -> Iterator[str]:
    results = [section.result for section in sections]
    yield top(results)
    yield contents([("headlines", "What you see"),
                    *((f"s{at}", section.title) for at, section in enumerate(sections, 1)),
                    ("manifest", "Manifest")])  # fmt: skip
    yield '<section id="headlines"><h2>What you see</h2>'
    yield from headlines(results)
    yield "</section>"
    for at, section in enumerate(sections, 1):
        yield f'<section id="s{at}"><h2>{text(section.title)}</h2>'
        for part in section.parts:
            yield figure(part, f"s{at}-{part.name}") if isinstance(part, Figure) else part
        yield "</section>"
    yield f'<section id="manifest"><h2>Manifest</h2><p>What each run was captured from.</p>{manifest(results)}'
    yield "</section>"
