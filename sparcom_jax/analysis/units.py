"""The cards of single units as a result: tables, and what the report shows."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.tables import CARD_CATEGORIES, CARD_UNITS, TABLES
from sparcom_jax.store.explored import open_explored
from sparcom_jax.store.run import Run, as_run

OF_TEXT = ("tokens", "activations", "at", "counted", "left_out")


def write_cards(run: Run | str | Path, name: str, output: str | Path) -> dict[str, Any]:
    """Writes the cards of a unit set as a result directory, with the tokens of instructions if its settings say so.

    Args:
      run: the run that `explore` wrote them into, or its path or URL.
      name: of the unit set.
      output: directory of the tables (docs/tables.md lists their columns) and of `summary.json`, written last.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run has no such cards.
    """
    run, output = as_run(run), Path(output)
    explored = open_explored(run, name)
    start_results(output, "explore")
    cards, texts = explored["cards"], explored["settings"]["texts"]
    write_table(output, CARD_UNITS, _units(cards))
    write_table(output, CARD_CATEGORIES, _categories(cards))
    return write_summary(
        output,
        {
            "kind": "explore",
            **run.record(),
            "units": {**explored["units"], "run": run.address},
            "settings": explored["settings"],
            "texts": int(texts),
            "read": explored["read"],
            "sample": explored["sample"],
            **{field: explored[field] for field in ("other", "effects") if field in explored},
            "categories": run.categories,
            "tables": [table.name for table in TABLES["explore"]],
            "cards": cards if texts else [_without_texts(card) for card in cards],
        },
    )


def _units(cards: list[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Rows of `CARD_UNITS`."""
    for card in cards:
        words = [" ".join(repr(token) for token, _ in card.get(field, ())) for field in ("raises", "lowers")]
        for category, of in card["of"].items():
            yield card["unit"], card["group"], card["layer"], category, of["rank"], of["score"], *words


def _categories(cards: list[Mapping[str, Any]]) -> Iterator[tuple[object, ...]]:
    """Rows of `CARD_CATEGORIES`."""
    for card in cards:
        for category, (mean, low, high) in card["frequency"].items():
            known = (card.get(field, {}).get(category, math.nan) for field in ("other", "attribution", "effect"))
            yield card["unit"], category, mean, low, high, *known


def _without_texts(card: Mapping[str, Any]) -> dict[str, Any]:
    return {**card, "examples": [{field: value for field, value in one.items() if field not in OF_TEXT}
                                 for one in card["examples"]]}  # fmt: skip
