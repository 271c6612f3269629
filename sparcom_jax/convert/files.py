"""The safetensors files of a checkpoint directory: which of them are read, and what is in them."""

import json
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.progress import say

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "U8": "uint8", "F8_E4M3": "float8_e4m3fn",
          "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu"}  # fmt: skip
MAPPED = {name: np.dtype(getattr(ml_dtypes, name)) for name in DTYPES.values() if name.startswith("float8")}
"""Dtypes that the safetensors package cannot give to NumPy: they are read through a memory map."""
REOPEN_BYTES = 64 << 20


class Place(NamedTuple):
    """Where a tensor lies on disk, in row-major order and little-endian.

    Attributes:
      file: name of its file.
      offset: of its first byte.
      dtype: NumPy's name of its dtype.
      shape: its shape.
    """

    file: str
    offset: int
    dtype: str
    shape: tuple[int, ...]


class TensorFiles:
    """Tensors in safetensors files.

    Attributes:
      names: names of all tensors.
      files: names of the files that they are read from.
    """

    def __init__(self, directory: Path, file_of: dict[str, str]) -> None:
        """Looks into the files, and reads nothing yet.

        Args:
          directory: where they lie.
          file_of: which file has which tensor.

        Raises:
          InputError: a file is missing or malformed, or lacks a tensor.
        """
        self._directory = directory
        self._file_of = file_of
        self._shape: dict[str, tuple[int, ...]] = {}
        self._dtype: dict[str, str] = {}
        self._offset: dict[str, int] = {}
        self.names = frozenset(file_of)
        self.files = sorted(set(file_of.values()))
        for file in self.files:
            self._describe(file)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shape[name]

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's dtype, or the file's where it is none of `DTYPES`."""
        return self._dtype[name]

    def place(self, name: str) -> Place:
        """Where a tensor lies on disk."""
        path = self._directory / self._file_of[name]
        begin, header = _header(path)
        return Place(path.name, begin + header[name]["data_offsets"][0], self._dtype[name], self._shape[name])

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads tensors one by one, file by file.

        The files are memory-mapped; they are closed and opened again now and then, so that the pages read do not
        stay in this process's memory.
        """
        wanted_of: dict[str, list[str]] = {}
        for name in names:
            wanted_of.setdefault(self._file_of[name], []).append(name)
        for file, wanted in sorted(wanted_of.items()):
            while wanted:
                read = 0
                with safe_open(self._directory / file, "np") as tensors:
                    while wanted and read < REOPEN_BYTES:
                        name = wanted.pop(0)
                        tensor = self._map(name) if name in self._offset else tensors.get_tensor(name)
                        read += tensor.nbytes
                        yield name, tensor
                        del tensor

    def _map(self, name: str) -> np.ndarray:
        path, dtype = self._directory / self._file_of[name], MAPPED[self._dtype[name]]
        return np.memmap(path, dtype, "r", self._offset[name], self._shape[name])

    def _describe(self, file: str) -> None:
        path = self._directory / file
        with ExitStack() as stack:
            try:
                tensors = stack.enter_context(safe_open(path, "np"))
            except (SafetensorError, OSError) as error:
                raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
            mine = sorted(name for name, of in self._file_of.items() if of == file)
            if absent := sorted(set(mine) - set(tensors.keys())):
                raise InputError(f"{path}: tensor {absent[0]!r} is in the index but not in the file")
            for name in mine:
                part = tensors.get_slice(name)
                self._shape[name] = tuple(part.get_shape())
                self._dtype[name] = DTYPES.get(part.get_dtype(), part.get_dtype())
        if mapped := [name for name in mine if self._dtype[name] in MAPPED]:
            begin, header = _header(path)
            self._offset |= {name: begin + header[name]["data_offsets"][0] for name in mapped}


def _header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the tensors of a safetensors file begin, and what its header says of them."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length, json.loads(file.read(length))


def open_files(directory: Path) -> TensorFiles:
    """Opens the weights of a checkpoint directory: those that transformers reads.

    `model.safetensors` goes before an index of shards. Where both sets are there whole, they must be the same.

    Raises:
      InputError: there are no safetensors files, a file is malformed, or two sets of weights differ.
    """
    single, index = directory / SINGLE, directory / INDEX
    if not single.exists() and not index.exists():
        pickles = sorted(path.name for suffix in ("bin", "pth") for path in directory.glob(f"*.{suffix}"))
        if pickles:
            raise InputError(f"{directory / pickles[0]}: pickled weights are never loaded; save the model as "
                             f"safetensors")  # fmt: skip
        raise InputError(f"{directory}: neither {SINGLE} nor {INDEX} is there")
    if not single.exists():
        return TensorFiles(directory, _shards(index))
    files = _whole(single)
    if index.exists():
        shards = _shards(index)
        missing = sorted({file for file in shards.values() if not (directory / file).exists()})
        if missing:
            say(f"{index}: left aside, it names files that are not there: {first_of(missing)}; {SINGLE} is read")
        elif difference := _difference(files, TensorFiles(directory, shards)):
            raise InputError(f"{single} and {index} are two sets of weights that differ ({difference}); delete one")
    return files


def open_adapter_files(directory: Path, name: str) -> TensorFiles:
    """Opens the one file of weights that an adapter has.

    Raises:
      InputError: it is missing, pickled or malformed.
    """
    if not (directory / name).exists():
        raise InputError(f"{directory}: {name} is not there (pickled weights are never loaded)")
    return _whole(directory / name)


def _whole(path: Path) -> TensorFiles:
    try:
        with safe_open(path, "np") as tensors:
            names = list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
    return TensorFiles(path.parent, dict.fromkeys(names, path.name))


def _shards(index: Path) -> dict[str, str]:
    try:
        weight_map = json.loads(index.read_text())["weight_map"]
        return {str(name): str(file) for name, file in weight_map.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{index}: malformed: {error!r}") from error


def _difference(one: TensorFiles, other: TensorFiles) -> str | None:
    """In what two sets of weights differ, if they do."""
    if one.files == other.files and one.names == other.names:
        return None
    if only := sorted(one.names ^ other.names):
        return f"only one has {first_of(only)}"
    for name in sorted(one.names):
        if (one.shape(name), one.dtype(name)) != (other.shape(name), other.dtype(name)):
            return f"shape or dtype of {name}"
        ((_, first),), ((_, second),) = one.read([name]), other.read([name])
        if first.tobytes() != second.tobytes():
            return f"values of {name}"
    return None
