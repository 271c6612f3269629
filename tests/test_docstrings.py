"""The meaning of fields, from docstrings."""

import dataclasses

from sparcom_jax.docstrings import LONGEST, meanings
from sparcom_jax.settings import StudySettings


class Described:
    """A thing. Attributes: are below.

    Attributes:
      one: a short meaning; with `code`. And all of it is shown.
      two: the first line of one
        that goes on, a: b.
      three: only the first sentence of what is longer than a line of help can be, e.g. this one. This would be too
        much. So would this.

    Notes:
      four: is no field.
    """


class Bare:
    """Nothing more."""


def test_meanings() -> None:
    assert meanings(Described) == {
        "one": "a short meaning; with code. And all of it is shown",
        "two": "the first line of one that goes on, a: b",
        "three": "only the first sentence of what is longer than a line of help can be, e.g. this one",
    }
    assert meanings(Bare) == {}


def test_every_field_of_a_study_has_a_short_meaning() -> None:
    for settings in (StudySettings(), *StudySettings().sections.values()):
        found = meanings(type(settings))
        assert list(found) == [field.name for field in dataclasses.fields(settings)]
        assert all(0 < len(meaning) <= LONGEST and "`" not in meaning for meaning in found.values()), found
