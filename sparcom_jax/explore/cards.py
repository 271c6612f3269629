"""The card of a unit: from its activations to what a page shows of it.

Axis legend: T tokens of a text.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32

BINS = 20
"""Of the histogram of activations."""
RANGES = 5
"""Equal ranges, from 0 to the highest activation, of which one example each is kept."""

Card = dict[str, Any]


Activations = Mapping[int, Float32[np.ndarray, "T"]]
"""Of one unit, at the tokens of each text, by the number of the text."""


def histogram(counted: Activations, sample: Sequence[int]) -> Card:
    """How often a unit has which activation, at the counted tokens of a sample of texts.

    Args:
      counted: its activations at the counted tokens.
      sample: the texts.
    """
    values = np.concatenate([counted[text] for text in sample])
    counts, edges = np.histogram(values, BINS)
    return {
        "tokens": len(values),
        "active": rounded(float(np.mean(values > 0))),
        "edges": [rounded(edge) for edge in edges],
        "counts": counts.tolist(),
    }


def example_texts(counted: Activations, count: int) -> list[int]:
    """The texts that are shown: those where a unit is most active, then one of every range that these leave out.

    Args:
      counted: its activations at the counted tokens.
      count: of the former.

    Returns:
      Their numbers, the most active first.
    """
    highest = {text: float(values.max()) for text, values in counted.items()}
    order = sorted((text for text, value in highest.items() if value > 0), key=lambda text: (-highest[text], text))
    of_range = {text: min(int(RANGES * highest[text] / highest[order[0]]), RANGES - 1) for text in order}
    shown = order[:count]
    taken = {of_range[text] for text in shown}
    for text in order[count:]:
        if of_range[text] not in taken:
            taken.add(of_range[text])
            shown.append(text)
    return shown


def example(
    values: Float32[np.ndarray, "T"],
    counted: slice,
    ids: Int32[np.ndarray, "T"],
    window: int,
    text_of: Callable[[int], str],
) -> Card:
    """Tokens of a text around the one where a unit is most active.

    Args:
      values: its activations at all tokens of the text.
      counted: the tokens that count.
      ids: the text.
      window: tokens that are kept.
      text_of: the text of a token.
    """
    at = counted.start + int(np.argmax(values[counted]))
    start = max(min(at - window // 2, len(ids) - window), 0)
    stop = min(start + window, len(ids))
    return {
        "most": rounded(values[at]),
        "at": at - start,
        "tokens": [text_of(int(token)) for token in ids[start:stop]],
        "activations": [rounded(value) for value in values[start:stop]],
        "counted": [max(counted.start - start, 0), min(counted.stop, stop) - start],
        "left_out": [start, len(ids) - stop],
    }


def rounded(value: float | np.floating) -> float:
    """Four digits: what a page can show."""
    return float(f"{float(value):.4g}")
