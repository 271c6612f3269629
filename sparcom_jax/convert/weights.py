"""Tensors of a checkpoint to parameters, in the checkpoint's own dtype and without torch."""

import hashlib
import json
import math
from collections.abc import Callable

import jax
import numpy as np

from sparcom_jax.convert.names import Source, embedding_and_head, parameter_sources
from sparcom_jax.convert.tensors import Tensors
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.stored import Stored, stored_params

DTYPES = ("float32", "bfloat16", "float16")
NON_FINITE = {2: {"bfloat16": 0x7F80, "float16": 0x7C00}, 4: {"float32": 0x7F800000}}
GROUP_BYTES = 1 << 30
ALIGNMENT = 64


class SourceWeights:
    """A checkpoint's tensors as the decoder's parameters, read some at a time.

    Attributes:
      dtype: the dtype of all tensors.
    """

    def __init__(self, config: DecoderConfig, tensors: Tensors, source: str) -> None:
        """Checks names, shapes and dtypes before anything is read.

        Args:
          config: the model that `config.json` describes.
          tensors: the checkpoint's tensors.
          source: what the checkpoint is called in messages.

        Raises:
          InputError: a tensor is missing, extra, misshapen, or of an unsupported or a mixed dtype.
        """
        self._source = source
        self._tensors = tensors
        self._sources = parameter_sources(config)
        _check_names(config, tensors, self._sources, source)
        self.dtype = _one_dtype(tensors, self._sources, source)
        self._digests: dict[str, str] = {}

    def read(self, paths: list[str], done: Callable[[], None]) -> dict[str, jax.Array]:
        """Reads some parameters.

        Args:
          paths: which.
          done: called after every tensor.

        Returns:
          Path -> parameter on the CPU device, experts stacked.

        Raises:
          InputError: a tensor is not finite.
        """
        destinations: dict[str, list[tuple[str, Source]]] = {}
        for path in paths:
            for part in self._sources[path][1]:
                destinations.setdefault(part.name, []).append((path, part))
        arrays = {path: _aligned(self._sources[path][0].shape, self.dtype) for path in paths}
        for name, tensor in self._tensors.read(sorted(destinations)):
            _require_finite(tensor, name, self._source)
            for path, source in destinations[name]:
                arrays[path][source.index] = source.take(tensor)
                done()
            self._digests[name] = _digest(tensor)
        cpu = jax.devices("cpu")[0]
        # Popped one by one: where the device cannot use an array in place, the copy replaces it at once.
        return {path: jax.device_put(arrays.pop(path), cpu) for path in paths}

    def hash(self, done: Callable[[], None]) -> str:
        """Digest of all tensors, as `digest` has it once all are read, without turning them into parameters.

        Args:
          done: called after every tensor.
        """
        for name, tensor in self._tensors.read(sorted({part.name for _, of in self._sources.values() for part in of})):
            self._digests[name] = _digest(tensor)
            done()
        return self.digest()

    def tensor_count(self) -> int:
        """How many tensors the parameters are made of; one that holds several counts as often."""
        return sum(len(parts) for _, parts in self._sources.values())

    def digest(self) -> str:
        """Digest of all tensors, once they are read; it does not depend on how they are spread over files."""
        assert self._digests.keys() == {part.name for _, parts in self._sources.values() for part in parts}
        return hashlib.sha256(json.dumps([self.dtype, sorted(self._digests.items())]).encode()).hexdigest()


def _digest(tensor: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).view(np.uint8).data).hexdigest()


def parameter_groups(config: DecoderConfig, dtype: str) -> list[list[str]]:
    """Paths of the parameters in groups that are read and written one after another, to bound the memory needed.

    Args:
      config: the model.
      dtype: the dtype that it is stored in.

    Returns:
      Groups of at most `GROUP_BYTES`; a larger parameter is a group by itself.
    """
    groups: list[list[str]] = []
    room = 0
    for path, stored in stored_params(config).items():
        size = math.prod(stored.shape) * np.dtype(dtype).itemsize
        if size > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(path)
        room -= size
    return groups


def _check_names(config: DecoderConfig, tensors: Tensors,
                 sources: dict[str, tuple[Stored, list[Source]]], where: str) -> None:  # fmt: skip
    expected = {source.name: source for _, parts in sources.values() for source in parts}
    extra = tensors.names - expected.keys()
    embedding, head = embedding_and_head(config)
    if config.tied_embeddings and head in extra and embedding in tensors.names:
        read = dict(tensors.read([head, embedding]))
        if not np.array_equal(read[head], read[embedding]):
            raise InputError(f"{where}: tie_word_embeddings is true, but {head} is not the embedding")
        extra -= {head}
    faults = []
    if missing := sorted(expected.keys() - tensors.names):
        faults.append(f"missing tensors: {first_of(missing)}")
    if extra:
        faults.append(f"unexpected tensors: {first_of(sorted(extra))}")
    misshapen = [
        f"{name} is {list(tensors.shape(name))}, config.json makes it {list(expected[name].shape)}"
        for name in sorted(expected.keys() & tensors.names)
        if tensors.shape(name) != expected[name].shape
    ]
    if misshapen:
        faults.append(f"misshapen tensors: {first_of(misshapen)}")
    if faults:
        raise InputError(f"{where}: {'; '.join(faults)}")


def _one_dtype(tensors: Tensors, sources: dict[str, tuple[Stored, list[Source]]],
               where: str) -> str:  # fmt: skip
    by_dtype: dict[str, list[str]] = {}
    for _, parts in sources.values():
        for source in parts:
            by_dtype.setdefault(tensors.dtype(source.name), []).append(source.name)
    for dtype, names in by_dtype.items():
        if dtype not in DTYPES:
            raise InputError(f"{where}: tensor {names[0]!r} has dtype {dtype}, supported: {', '.join(DTYPES)}")
    if len(by_dtype) > 1:
        named = ", ".join(f"{names[0]} is {dtype}" for dtype, names in sorted(by_dtype.items()))
        raise InputError(f"{where}: tensors of different dtypes ({named}); save the model in one dtype")
    return next(iter(by_dtype))


def _require_finite(tensor: np.ndarray, name: str, where: str) -> None:
    # The exponent bits say it in one integer comparison; isfinite of bfloat16 is many times slower.
    bits: np.ndarray = tensor.reshape(-1).view(np.uint16 if tensor.itemsize == 2 else np.uint32)
    exponent = bits.dtype.type(NON_FINITE[tensor.itemsize][tensor.dtype.name])
    for start in range(0, bits.size, 1 << 22):
        bad = (bits[start : start + (1 << 22)] & exponent) == exponent
        if bad.any():
            at = np.unravel_index(start + int(np.argmax(bad)), tensor.shape)
            raise InputError(f"{where}: tensor {name!r} is not finite at {[int(i) for i in at]}")


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that a CPU device can use in place, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(shape)
