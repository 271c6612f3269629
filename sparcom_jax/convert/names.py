"""Which Hugging Face tensors a parameter is made of."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.convert.families.family import Part
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.stored import Stored, stored_params

IGNORED_TENSORS = re.compile(r"\.rotary_emb\.inv_freq$|\.attention\.(masked_)?bias$")
"""Buffers that old checkpoints carry along; they follow from the config."""


@dataclass(frozen=True)
class Source:
    """Where a part of a parameter comes from.

    Attributes:
      name: name of the Hugging Face tensor.
      index: which part of the parameter it is: () or (expert,).
      shape: shape that the tensor must have in the file.
      transposed: whether the part is the transpose of what is in the file.
      axis: axis of the tensor that `rows` are on.
      rows: which rows of the tensor the part is; None for all of them, of a tensor that holds nothing else.
    """

    name: str
    index: tuple[int, ...]
    shape: tuple[int, ...]
    transposed: bool
    axis: int = 0
    rows: slice | np.ndarray | None = None

    def take(self, tensor: np.ndarray) -> np.ndarray:
        """Makes the part from the tensor."""
        mine = tensor if self.rows is None else tensor[(*[slice(None)] * self.axis, self.rows)]
        return mine.T if self.transposed else mine

    def put(self, tensor: np.ndarray, part: np.ndarray) -> None:
        """Writes the part where it lies in the tensor."""
        mine = ... if self.rows is None else (*[slice(None)] * self.axis, self.rows)
        tensor[mine] = part.T if self.transposed else part

    def locate(self, axis: int, at: Sequence[int]) -> tuple[int, list[int]]:
        """Where something lies in the tensor.

        Args:
          axis: axis of the part that it is on.
          at: its places there.

        Returns:
          The axis of the tensor, and the places there.
        """
        axis = len(self.shape) - 1 - axis if self.transposed else axis
        if self.rows is None or axis != self.axis:
            return axis, list(at)
        return axis, np.arange(self.shape[axis])[self.rows][list(at)].tolist()


def parameter_sources(config: DecoderConfig) -> dict[str, tuple[Stored, list[Source]]]:
    """Every stored parameter of a model with the tensors it is made of.

    Returns:
      Path of the parameter -> where it lies, and its sources. A tensor that holds several parameters occurs with each.
    """
    return {path: (stored, _sources(config, path, stored.shape)) for path, stored in stored_params(config).items()}


def expected_tensors(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all tensors that a model is made of."""
    return {one.name: one.shape for _, parts in parameter_sources(config).values() for one in parts}


def embedding_and_head(config: DecoderConfig) -> tuple[str, str]:
    """Names of the tensors of the embedding and of the output head."""
    model = FAMILIES[config.family].model
    return model["embed/embedding"][0], model["head/kernel"][0]


def _sources(config: DecoderConfig, path: str, shape: tuple[int, ...]) -> list[Source]:
    family = FAMILIES[config.family]
    if not path.startswith("layers/"):
        name, how = family.model[path]
        return [_source(config, name, (), shape, how)]
    _, layer, in_layer = path.split("/", 2)
    template, how = family.layer[in_layer]
    template = family.layer_prefix + template
    if "{expert}" not in template:
        return [_source(config, template.format(layer=layer), (), shape, how)]
    return [
        _source(config, template.format(layer=layer, expert=expert), (expert,), shape[1:], how)
        for expert in range(shape[0])
    ]


def _source(
    config: DecoderConfig, name: str, index: tuple[int, ...], shape: tuple[int, ...], how: bool | Part
) -> Source:
    if isinstance(how, Part):
        return Source(name, index, how.shape(config), how.transposed, how.axis, how.rows(config))
    return Source(name, index, shape[::-1] if how else shape, how)
