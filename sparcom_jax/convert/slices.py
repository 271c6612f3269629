"""What units are made of in a checkpoint: which slices of which Hugging Face tensors."""

from collections.abc import Iterable
from dataclasses import dataclass

from sparcom_jax.convert.names import Source, parameter_sources
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.units.parameters import ParameterSlice, Role


@dataclass(frozen=True)
class TensorSlice:
    """A part of a tensor, `tensor[within]`.

    Attributes:
      role: as in `ParameterSlice`.
      name: name of the Hugging Face tensor.
      index: which expert of a tensor that holds all, `(expert,)`; else `()`.
      axis: axis of the tensor, counted after `index`, on which the units are.
      at: their places on it.
    """

    role: Role
    name: str
    index: tuple[int, ...]
    axis: int
    at: tuple[int, ...]

    @property
    def within(self) -> tuple[int | slice | list[int], ...]:
        """The units within the tensor."""
        return (*self.index, *[slice(None)] * self.axis, list(self.at))


def tensor_slices(config: DecoderConfig, slices: Iterable[ParameterSlice]) -> list[TensorSlice]:
    """The same slices in the tensors that the parameters are made of.

    Args:
      config: the model.
      slices: of its parameters, from `unit_slices`.
    """
    sources = {
        path: {source.index: source for source in parts} for path, (_, parts) in parameter_sources(config).items()
    }
    return [_in_tensor(sources[one.path], one) for one in slices]


def _in_tensor(sources: dict[tuple[int, ...], Source], one: ParameterSlice) -> TensorSlice:
    """A tensor has one index of the parameter, or, where it holds all experts, the first part of it."""
    known = len(next(iter(sources)))
    source, inner = sources[one.index[:known]], one.index[known:]
    axis, at = source.locate(len(inner) + one.axis, one.at)
    return TensorSlice(one.role, source.name, inner, axis - len(inner), tuple(at))
