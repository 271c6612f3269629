"""Shares against whole-number arithmetic on the decimals that were written."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparcom_jax.identify.selection import share_of
from sparcom_jax.resampling import length_strata
from sparcom_jax.shares import least_whole, least_whole_of_each
from sparcom_jax.units.groups import Group


def by_counting(tenths: int, digits: int, total: int) -> int:
    """The first n that reaches tenths / 10^digits of the total."""
    return next(n for n in range(total + 1) if n * 10**digits >= tenths * total)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 6).flatmap(lambda digits: st.tuples(st.integers(0, 10**digits), st.just(digits))),
       st.lists(st.integers(0, 3000), min_size=1, max_size=5))  # fmt: skip
def test_the_decimal_that_was_written_decides(share: tuple[int, int], totals: list[int]) -> None:
    tenths, digits = share
    written = float(f"{tenths}e-{digits}")
    expected = [by_counting(tenths, digits, total) for total in totals]
    assert [least_whole(written, total) for total in totals] == expected
    assert least_whole_of_each(written, np.asarray(totals, np.uint32)).tolist() == expected


def test_every_share_of_two_digits_of_every_total() -> None:
    totals = np.arange(1, 401)
    for hundredths in range(1, 101):
        found = least_whole_of_each(float(f"0.{hundredths:02}") if hundredths < 100 else 1.0, totals)
        assert (found * 100 >= hundredths * totals).all()
        assert ((found - 1) * 100 < hundredths * totals).all()


@pytest.mark.parametrize(("share", "total", "least"), [
    (0.55, 200, 110), (0.07, 100, 7), (0.05, 140, 7), (1 / 3, 3, 1), (2 / 3, 3, 2), (1e-9, 5, 1), (1.0, 2**40, 2**40),
    (0.1, 10**18, 10**17),
])  # fmt: skip
def test_shares_that_floats_get_wrong_or_may(share: float, total: int, least: int) -> None:
    assert least_whole(share, total) == least
    assert share_of(share, [Group("mlp", (0,), ("neuron",), (total,))]) == least


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 12))
def test_strata_are_cut_at_exact_quantiles(lengths: list[int], stratum_rows: int) -> None:
    strata = max(round(len(lengths) / stratum_rows), 1)
    ordered = sorted(lengths)
    edges = []
    for k in range(1, strata):
        at = Fraction(k * (len(ordered) - 1), strata)
        low = int(at)
        edges.append(ordered[low] + (at - low) * (ordered[min(low + 1, len(ordered) - 1)] - ordered[low]))
    expected = [sum(edge <= length for edge in edges) for length in lengths]
    assert length_strata(np.asarray(lengths, np.uint32), stratum_rows).tolist() == expected
