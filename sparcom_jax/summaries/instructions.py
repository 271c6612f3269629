"""Summary of the card of an instruction file, which itself is printed above it."""

from sparcom_jax.errors import first_of
from sparcom_jax.instructions.card import Card
from sparcom_jax.results.numbers import number
from sparcom_jax.summaries.summary import Summary, command

LISTED = 8


def judged(file: str, card: Card) -> Summary:
    """What an instruction file holds, and which rules of a good set it breaks.

    Args:
      file: the file, or `hexainst`.
      card: its card.
    """
    sizes = [f"{name} {one.rows:,}" for name, one in card.categories.items()]
    guessed = ", ".join(f"{number(value)} by {unit}" for unit, value in card.length_accuracy.items())
    code = "their code run" if card.code_was_run else "their code not run"
    facts = [
        ("rows", f"{sum(one.rows for one in card.categories.values()):,} ({first_of(sizes, LISTED)})"),
        ("guessed by length", f"{guessed}; by chance {number(1 / len(card.categories))}"),
        ("responses", f"{len(card.response_faults):,} at fault, {code}"),
        ("rules", f"{len(card.faults)} broken" if card.faults else "all kept"),
    ]
    following = [command("capture", model="MODEL", instructions=file, output="RUN")]
    return Summary(f"hexainst: {file}", facts, [], [f"{fault}." for fault in card.faults], following)
