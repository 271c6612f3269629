"""Summary of the card of an instruction file."""

from sparcom_jax.errors import first_of
from sparcom_jax.instructions.card import Card
from sparcom_jax.results.numbers import number
from sparcom_jax.summaries.summary import Cell, Summary, Table, command


def judged(file: str, card: Card) -> Summary:
    """What an instruction file holds, and which rules of a good set it breaks.

    Args:
      file: the file, or `hexainst`.
      card: its card.
    """
    rows: list[list[Cell]] = [
        [name, one.rows, "/".join(map(str, one.words)), one.openings, one.topics, one.nearest[0], one.checked]
        for name, one in card.categories.items()
    ]
    heads = ("category", "rows", "words", "openings", "topics", "overlap", "checked")
    guessed = ", ".join(f"{number(value)} by {unit}" for unit, value in card.length_accuracy.items())
    facts = [
        ("rows", f"{sum(one.rows for one in card.categories.values()):,} in {len(card.categories)} categories"),
        ("guessed by length", f"{guessed}; by chance {number(1 / len(card.categories))}"),
        ("responses", f"{len(card.response_faults):,} at fault"
         f"{', their code run' if card.code_was_run else ', their code not run'}"),
    ]  # fmt: skip
    warnings = [f"{len(card.faults):,} rules are broken: {first_of(card.faults, 3)}."] if card.faults else []
    following = [command("capture", model="MODEL", instructions=file, output="RUN")]
    return Summary(f"hexainst: {file}", facts, [Table(heads, rows)], warnings, following)
