"""How the layers of a model are compiled: as few blocks as repeat.

Layers of one structure, or a pattern of structures that repeats, are one segment: the forward pass scans over its
repeats, and of each position of the pattern the parameters of all repeats are stacked.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


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

    def repeats_within(self, layers: range) -> range:
        """Which repeats lie within consecutive layers, which begin and end at its patterns or outside."""
        first, last = (
            min(max(layer - self.start, 0) // self.period, self.repeats) for layer in (layers.start, layers.stop)
        )
        return range(first, last)

    def layers(self, position: int) -> range:
        """The layers at one position of the pattern."""
        return range(self.start + position, self.stop, self.period)


class Location(NamedTuple):
    """Where the parameters of a layer lie in memory: `params["segments"][segment][position]`, at `[repeat]` of each.

    Attributes:
      segment: number of the segment.
      position: position in its pattern.
      repeat: index on the leading axis.
    """

    segment: int
    position: int
    repeat: int


def locate(segments: tuple[Segment, ...], layer: int) -> Location:
    """Where the parameters of a layer lie."""
    number, segment = next((number, one) for number, one in enumerate(segments) if layer < one.stop)
    repeat, position = divmod(layer - segment.start, segment.period)
    return Location(number, position, repeat)


def boundary(segments: tuple[Segment, ...], layer: int) -> int:
    """The last layer, of a given one and those before, that a forward pass can begin at: the first of a pattern."""
    segment = segments[locate(segments, layer).segment]
    return layer - (layer - segment.start) % segment.period


@lru_cache
def segments_of(structures: tuple[Hashable, ...]) -> tuple[Segment, ...]:
    """Divides layers into segments: as few compiled blocks as can be, then as few segments.

    The last layer is a segment of its own, because a capture needs only a part of it.

    Args:
      structures: of each layer; equal ones are compiled alike.
    """
    last = len(structures) - 1
    best: dict[int, tuple[int, tuple[Segment, ...]]] = {last: (1, (Segment(last, 1, 1),))}  # of the layers from each on
    for start in reversed(range(last)):
        found = []
        for period in range(1, last - start + 1):
            pattern, stop = structures[start : start + period], start
            while stop + period <= last and structures[stop : stop + period] == pattern:
                stop += period
                blocks, rest = best[stop]
                found.append((period + blocks, (Segment(start, period, (stop - start) // period), *rest)))
        best[start] = min(found, key=lambda one: (one[0], len(one[1])))
    return best[0][1]
