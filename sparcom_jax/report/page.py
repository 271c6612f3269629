"""The report: all results of a directory on one page."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from sparcom_jax.report.document import document
from sparcom_jax.report.figures import write_figures
from sparcom_jax.report.files import write_whole
from sparcom_jax.report.findings import findings
from sparcom_jax.report.first import first_screen
from sparcom_jax.report.manifest import manifest, model_name
from sparcom_jax.report.markup import GROUPS, choice, render, slug, table, text
from sparcom_jax.report.parts import Part, figures
from sparcom_jax.report.questions import QUESTIONS, Question
from sparcom_jax.results.reader import Result, find_results


def report(
    results: str | Path,
    output: str | Path,
    figures_to: str | Path | None = None,
    *,
    preset: str = "text",
    only: Sequence[str] = (),
    note: str = "",
) -> Path:
    """Writes the report of all results below a directory.

    The same results give the same page, byte by byte.

    Args:
      results: searched recursively for the results of all analyses.
      output: the page, replaced as a whole.
      figures_to: directory for charts as SVG and PDF; none are written by default.
      preset: `column` or `text`: how wide these are.
      only: patterns of their names, such as `*-effects`; all by default.
      note: what the head of the page says besides, as plain text.

    Returns:
      `output`.

    Raises:
      InputError: there are no results, one of them is malformed, no figure is named so, or nothing can be written.
    """
    results, output = Path(results), Path(output)
    found = sorted(find_results(results), key=lambda result: -result.parameters)  # the largest model is shown first
    answered = {one: _answers(one, found) for one in QUESTIONS}
    answered = {one: answers for one, answers in answered.items() if answers or _headlines(one, found)}
    if figures_to is not None:
        shown = [(result, part) for answers in answered.values() for result, parts in answers
                 for part in figures(parts)]  # fmt: skip
        write_figures(shown, Path(figures_to), preset, only)
    evidence = _evidence(answered)
    page = document(_first(found, answered, evidence, note), _rest(found, answered, evidence))
    write_whole(output, page.encode("utf-8", "xmlcharrefreplace"))
    return output


Answers = list[tuple[Result, Sequence[Part]]]
"""The results that answer a question, with what they say."""


def _answers(question: Question, results: Sequence[Result]) -> Answers:
    return [
        (result, parts)
        for result in results
        if result.kind in question.answers and (parts := question.answers[result.kind](result))
    ]


def _first(
    results: Sequence[Result], answered: dict[Question, Answers], evidence: dict[str, str], note: str
) -> Iterator[str]:
    """The contents, and the first screen."""
    links = [("findings", "Findings"), *((one.anchor, one.title) for one in answered), ("method", "How it was made")]
    items = "".join(f'<li><a href="#{anchor}">{text(title)}</a></li>' for anchor, title in links)
    yield f'<a class="skip" href="#main">Skip to the findings</a><nav aria-label="Contents"><ul>{items}</ul></nav>'
    yield '<main id="main">'
    yield from first_screen(results, evidence, note)


def _rest(results: Sequence[Result], answered: dict[Question, Answers], evidence: dict[str, str]) -> Iterator[str]:
    """The questions, each with what answers it, and how all was made."""
    for question, answers in answered.items():
        yield f'<section id="{question.anchor}"><h2>{text(question.title)}</h2>'
        yield _headlines(question, results)
        for kind in question.answers:
            of_kind = [(result, parts) for result, parts in answers if result.kind == kind]
            if of_kind:
                yield choice("result", {
                    label(result): "".join(_answer(result, parts, anchor(question, result), evidence[result.key]))
                    for result, parts in of_kind
                })  # fmt: skip
        yield "</section>"
    glossary = "".join(f"<dt><code>{name}</code></dt><dd>{meaning}</dd>" for name, meaning in GROUPS.items())
    yield (
        '<section id="method"><h2>How it was made</h2><p>What each run was captured from, and the commands.</p>'
        f'{manifest(results)}<h3>Groups of units</h3><dl class="groups">{glossary}</dl></section></main>'
    )


def _answer(result: Result, parts: Sequence[Part], place: str, evidence: str) -> Iterator[str]:
    """What one result says at a place: its findings where this is their evidence, and then all else."""
    yield f'<div id="{text(place)}">'
    for finding in findings(result) if place == evidence else ():
        yield f'<p class="finding{"" if finding.carried else " not"}"><bdi>{text(finding.sentences)}</bdi></p>'
    yield from render(parts, place)
    yield "</div>"


def _headlines(question: Question, results: Sequence[Result]) -> str:
    """A table of all results that have something to say of a question, as HTML."""
    tables = []
    for kind, shown in question.headlines.items():
        of_kind = [result for result in results if result.kind == kind]
        rows = [row for result in of_kind for row in shown.rows(result, *map(model_name, result.sides.values()))]
        if rows:
            tables.append(table(shown.columns, rows, title=shown.title) + f"<p>{text(shown.meaning)}</p>")
    return "".join(tables)


def _evidence(answered: dict[Question, Answers]) -> dict[str, str]:
    """By key of a result, the first place of the page that shows it."""
    places: dict[str, str] = {}
    for question, answers in answered.items():
        for result, _ in answers:
            places.setdefault(result.key, anchor(question, result))
    return places


def anchor(question: Question, result: Result) -> str:
    """Id of what a result says of a question."""
    return f"{question.anchor}-{result.kind}-{slug(result.name.removeprefix(f'{result.kind}-'))}"


def label(result: Result) -> str:
    """What a result is called among those of its kind."""
    return model_name(next(iter(result.sides.values()))) if result.name == "." else result.name
