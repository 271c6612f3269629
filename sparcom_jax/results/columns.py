"""What a table of results is: its columns, each with what it holds and means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
      name: its name.
      holds: a `category` of the results, other `text`, or a `number`, which is empty where it is not defined.
      meaning: what it is, in one line.
    """

    name: str
    holds: Literal["category", "text", "number"]
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table of a kind of results.

    Attributes:
      name: of its file.
      columns: its columns, in order.
      shown: whether the report shows it.
    """

    name: str
    columns: tuple[Column, ...]
    shown: bool = True

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns."""
        return tuple(column.name for column in self.columns)

    def record(self, row: Sequence[Any]) -> dict[str, Any]:
        """The values of a row, by column."""
        return dict(zip(self.names, row, strict=True))


def table(name: str, *columns: Column, shown: bool = True) -> Table:
    """A table, shown in the report unless it says otherwise."""
    return Table(name, columns, shown)


def category(name: str, meaning: str) -> Column:
    """A column of categories."""
    return Column(name, "category", meaning)


def text(name: str, meaning: str) -> Column:
    """A column of text."""
    return Column(name, "text", meaning)


def number(name: str, meaning: str) -> Column:
    """A column of numbers."""
    return Column(name, "number", meaning)
