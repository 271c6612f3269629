import pytest

from sparcom_jax.results.numbers import UNDEFINED, number


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.12, "0.120"), (0.0123456, "0.0123"), (12.0, "12.0"), (999.4, "999"), (999.6, "1,000"), (12345, "12,345"),
     (0.0, "0"), (3, "3"), (-0.5, "-0.500"), (0.00001234, "1.23e-05"), (None, UNDEFINED), (123.4, "123")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float | None, shown: str) -> None:
    assert number(value) == shown
