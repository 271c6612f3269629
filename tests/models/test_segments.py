"""Layers divided into segments, against all ways of dividing them."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparcom_jax.models.segments import Location, Segment, locate, segments_of

STRUCTURES = st.lists(st.sampled_from("ABC"), min_size=1, max_size=40).map(tuple)
FEW_STRUCTURES = st.lists(st.sampled_from("AB"), min_size=1, max_size=9).map(tuple)


def blocks(segments: tuple[Segment, ...]) -> int:
    return sum(segment.period for segment in segments)


def divisions(structures: tuple[str, ...]) -> Iterator[list[tuple[str, ...]]]:
    """All ways to divide layers into consecutive pieces."""
    if not structures:
        yield []
    for size in range(1, len(structures) + 1):
        for rest in divisions(structures[size:]):
            yield [structures[:size], *rest]


def shortest_period(piece: tuple[str, ...]) -> int:
    return min(n for n in range(1, len(piece) + 1) if piece[:n] * (len(piece) // n) == piece)


@given(STRUCTURES)
def test_every_layer_has_its_place(structures: tuple[str, ...]) -> None:
    segments = segments_of(structures)
    assert segments[-1] == Segment(len(structures) - 1, 1, 1)
    starts = [0, *(segment.stop for segment in segments)]
    assert [segment.start for segment in segments] == starts[:-1]
    assert starts[-1] == len(structures)
    found = {}
    for number, segment in enumerate(segments):
        for position in range(segment.period):
            layers = segment.layers(position)
            assert len({structures[layer] for layer in layers}) == 1
            assert len(layers) == segment.repeats
            found |= {layer: Location(number, position, repeat) for repeat, layer in enumerate(layers)}
    assert found == {layer: locate(segments, layer) for layer in range(len(structures))}


@given(FEW_STRUCTURES)
def test_no_division_has_fewer_blocks(structures: tuple[str, ...]) -> None:
    segments = segments_of(structures)
    costs = [(sum(map(shortest_period, pieces)), len(pieces)) for pieces in divisions(structures[:-1])]
    assert (blocks(segments) - 1, len(segments) - 1) == min(costs)


@pytest.mark.parametrize(("structures", "expected"), [
    ("A", 1), ("AA", 2), ("A" * 80, 2), ("B" + "A" * 60, 3), ("AB" * 24, 4), ("AAAB" * 12, 6), ("AAAB" * 12 + "A", 5),
    ("BBB" + "AAAAAB" * 8 + "A", 8), ("ABCDEFG" * 9 + "A", 8),
])  # fmt: skip
def test_how_much_is_compiled(structures: str, expected: int) -> None:
    assert blocks(segments_of(tuple(structures))) == expected
