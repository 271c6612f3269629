"""How the layers of a model are compiled: as few blocks as repeat.

Layers of one structure, or a pattern of structures that repeats, are one segment: the forward pass scans over its
repeats, and of each position of the pattern the parameters of all repeats are stacked.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

LONGEST_PATTERN = 16
"""The most layers of a pattern."""


@dataclass(frozen=True)
class Segment:
    """Consecutive layers that repeat a pattern.

    Attributes:
      start: first layer.
      period: layers of the pattern.
      repeats: how often it comes.
    """

    start: int
    period: int
    repeats: int

    @property
    def stop(self) -> int:
        """The layer after the last."""
        return self.start + self.period * self.repeats

    def layers(self, position: int) -> range:
        """The layers at one position of the pattern."""
        return range(self.start + position, self.stop, self.period)


@lru_cache
def segments_of(structures: tuple[Hashable, ...]) -> tuple[Segment, ...]:
    """Cuts layers into segments, the fewest compiled blocks, of these the fewest segments.

    The last layer is a segment of its own, because a capture needs only a part of it.

    Args:
      structures: of each layer; equal ones are compiled alike.
    """
    last = len(structures) - 1
    return (*_fewest_blocks(structures[:last]), Segment(last, 1, 1))


def _fewest_blocks(structures: Sequence[Hashable]) -> list[Segment]:
    count = len(structures)
    best: list[tuple[int, int, list[Segment]]] = [(0, 0, [])] * (count + 1)  # blocks and segments from each layer on
    for start in reversed(range(count)):
        found = []
        for period in range(1, min(LONGEST_PATTERN, count - start) + 1):
            repeats = 1
            while True:
                blocks, number, rest = best[start + period * repeats]
                found.append((blocks + period, number + 1, [Segment(start, period, repeats), *rest]))
                after = start + period * repeats
                if structures[after : after + period] != structures[start : start + period]:
                    break
                repeats += 1
        best[start] = min(found, key=lambda one: one[:2])
    return best[0][2]
