"""Named tensors, wherever they come from, and tensors that are made of others.

A chain of these leads from what is on disk to the tensors of an unquantised checkpoint under the names that
transformers gives them: files, then a new name, a dequantisation, a merged adapter.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Tensors(Protocol):
    """Named tensors that can be read one by one."""

    @property
    def names(self) -> frozenset[str]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's dtype, or the file's where NumPy has none."""

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads tensors, in the order in which they are stored."""


@dataclass(frozen=True)
class Recipe:
    """A tensor that is made of others.

    Attributes:
      inputs: names of the tensors that it is made of.
      shape: its shape.
      dtype: NumPy's name of its dtype.
      make: makes it of the inputs, in their order.
    """

    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: str
    make: Callable[..., np.ndarray]


def renamed(tensors: Tensors, old: str) -> Recipe:
    """A tensor under another name."""
    return Recipe((old,), tensors.shape(old), tensors.dtype(old), lambda tensor: tensor)


class Derived:
    """Tensors that are made of others; those that no recipe asks for can be kept as they are.

    Attributes:
      names: names of all tensors.
    """

    def __init__(self, base: Tensors, recipes: dict[str, Recipe], kept: Iterable[str] = ()) -> None:
        """Recipes replace tensors of the same name.

        Args:
          base: what the tensors are made of.
          recipes: name -> how it is made.
          kept: names of tensors of `base` that stay as they are.
        """
        self._base = base
        self._recipes = {name: renamed(base, name) for name in kept} | recipes
        self.names = frozenset(self._recipes)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._recipes[name].shape

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's dtype."""
        return self._recipes[name].dtype

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Makes tensors, each as soon as all that it is made of is read; what is not needed any more is let go."""
        waiting: dict[str, list[str]] = {}
        for name in names:
            for needed in self._recipes[name].inputs:
                waiting.setdefault(needed, []).append(name)
        held: dict[str, np.ndarray] = {}
        for needed, tensor in self._base.read(sorted(waiting)):
            held[needed] = tensor
            del tensor
            for name in list(waiting[needed]):
                recipe = self._recipes[name]
                if all(one in held for one in recipe.inputs):
                    yield name, recipe.make(*(held[one] for one in recipe.inputs))
                    for one in recipe.inputs:
                        waiting[one].remove(name)
            for one in [one for one in held if not waiting[one]]:
                del held[one]


class Joined:
    """Two sets of tensors whose names differ; those of the first are read first.

    Attributes:
      names: names of all tensors.
    """

    def __init__(self, first: Tensors, second: Tensors) -> None:
        assert not first.names & second.names, first.names & second.names
        self._first, self._second = first, second
        self.names = first.names | second.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._of(name).shape(name)

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's dtype."""
        return self._of(name).dtype(name)

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads tensors one by one."""
        listed = list(names)
        for tensors in (self._first, self._second):
            yield from tensors.read([name for name in listed if name in tensors.names])

    def _of(self, name: str) -> Tensors:
        return self._first if name in self._first.names else self._second
