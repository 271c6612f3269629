"""Safetensors files to parameters and back, in the checkpoint's own dtype and without torch."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import jax
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sparcom_jax.convert.names import IGNORED_TENSORS, Source, embedding_and_head, parameter_sources, path_name
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params

DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
NON_FINITE = {2: {"bfloat16": 0x7F80, "float16": 0x7C00}, 4: {"float32": 0x7F800000}}
REOPEN_BYTES = 64 << 20
GROUP_BYTES = 1 << 30
ALIGNMENT = 64


class TensorFiles:
    """The safetensors files of a checkpoint directory.

    Attributes:
      names: names of all tensors, except buffers that follow from the config.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file_of = _index(directory)
        self._describe_files()
        self.names = {name for name in self._file_of if not IGNORED_TENSORS.search(name)}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._shape[name]

    def dtype(self, name: str) -> str:
        """NumPy name of a tensor's dtype."""
        return self._dtype[name]

    def read(self, names: list[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Reads tensors one by one, file by file.

        The files are memory-mapped; they are closed and opened again now and then, so that the pages read do not
        stay in this process's memory.
        """
        for file in sorted({self._file_of[name] for name in names}):
            wanted = [name for name in names if self._file_of[name] == file]
            while wanted:
                read = 0
                with safe_open(self._directory / file, "np") as tensors:
                    while wanted and read < REOPEN_BYTES:
                        name = wanted.pop(0)
                        tensor = tensors.get_tensor(name)
                        read += tensor.nbytes
                        yield name, tensor
                        del tensor

    def _describe_files(self) -> None:
        self._shape: dict[str, tuple[int, ...]] = {}
        self._dtype: dict[str, str] = {}
        for file in sorted(set(self._file_of.values())):
            path = self._directory / file
            with ExitStack() as stack:
                try:
                    tensors = stack.enter_context(safe_open(path, "np"))
                except (SafetensorError, OSError) as error:
                    raise InputError(f"{path}: cannot be read as safetensors: {error}") from error
                present = set(tensors.keys())
                for name in sorted(n for n, f in self._file_of.items() if f == file and n not in present):
                    raise InputError(f"{path}: tensor {name!r} is in the index but not in the file")
                for name in present & self._file_of.keys():
                    part = tensors.get_slice(name)
                    self._shape[name] = tuple(part.get_shape())
                    self._dtype[name] = DTYPES.get(part.get_dtype(), part.get_dtype())


def _index(directory: Path) -> dict[str, str]:
    index, single = directory / "model.safetensors.index.json", directory / "model.safetensors"
    if index.exists():
        try:
            weight_map = json.loads(index.read_text())["weight_map"]
            return {str(name): str(file) for name, file in weight_map.items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{index}: malformed: {error!r}") from error
    if single.exists():
        try:
            with safe_open(single, "np") as tensors:
                return dict.fromkeys(tensors.keys(), single.name)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{single}: cannot be read as safetensors: {error}") from error
    pickles = sorted(path.name for path in directory.glob("*.bin")) + sorted(p.name for p in directory.glob("*.pth"))
    if pickles:
        raise InputError(f"{directory / pickles[0]}: pickled weights are never loaded; save the model as safetensors")
    raise InputError(f"{directory}: neither model.safetensors nor model.safetensors.index.json is there")


class SourceWeights:
    """A checkpoint's tensors as the decoder's parameters, read some at a time.

    Attributes:
      dtype: the dtype of all tensors.
    """

    def __init__(self, config: DecoderConfig, directory: Path) -> None:
        """Checks names, shapes and dtypes before anything is read.

        Args:
          config: the model that `config.json` describes.
          directory: Hugging Face directory.

        Raises:
          InputError: a tensor is missing, extra, misshapen, or of an unsupported or a mixed dtype.
        """
        self._directory = directory
        self._files = TensorFiles(directory)
        self._sources = parameter_sources(config)
        _check_names(config, self._files, self._sources, directory)
        self.dtype = _one_dtype(self._files, self._sources, directory)
        self._digests: dict[str, str] = {}

    def read(self, paths: list[str], done: Callable[[], None]) -> dict[str, jax.Array]:
        """Reads some parameters.

        Args:
          paths: which.
          done: called after every tensor.

        Returns:
          Path -> parameter on the CPU device, layers and experts stacked.

        Raises:
          InputError: a tensor is not finite.
        """
        destinations: dict[str, list[tuple[str, Source]]] = {}
        for path in paths:
            for part in self._sources[path][1]:
                destinations.setdefault(part.name, []).append((path, part))
        arrays = {path: _aligned(self._sources[path][0].shape, self.dtype) for path in paths}
        for name, tensor in self._files.read(sorted(destinations)):
            _require_finite(tensor, name, self._directory)
            for path, source in destinations[name]:
                arrays[path][source.index] = source.take(tensor)
                done()
            self._digests[name] = hashlib.sha256(np.ascontiguousarray(tensor).view(np.uint8).data).hexdigest()
        cpu = jax.devices("cpu")[0]
        # Popped one by one: where the device cannot use an array in place, the copy replaces it at once.
        return {path: jax.device_put(arrays.pop(path), cpu) for path in paths}

    def tensor_count(self) -> int:
        """How many tensors the parameters are made of; one that holds several counts as often."""
        return sum(len(parts) for _, parts in self._sources.values())

    def digest(self) -> str:
        """Digest of all tensors, once they are read; it does not depend on how they are spread over files."""
        assert self._digests.keys() == {part.name for _, parts in self._sources.values() for part in parts}
        return hashlib.sha256(json.dumps([self.dtype, sorted(self._digests.items())]).encode()).hexdigest()


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
    for path, (leaf, _) in parameter_sources(config).items():
        size = leaf.size * np.dtype(dtype).itemsize
        if size > room:
            groups.append([])
            room = GROUP_BYTES
        groups[-1].append(path)
        room -= size
    return groups


def save_params(config: DecoderConfig, params: Params, path: Path) -> None:
    """Writes parameters as a Hugging Face safetensors file, under the names that transformers reads.

    Args:
      config: the model, of a family whose tensors each hold one parameter.
      params: its parameters.
      path: file to write.
    """
    leaves = {path_name(at): np.asarray(leaf) for at, leaf in jax.tree.flatten_with_path(params)[0]}
    tensors = {}
    for at, (_, parts) in parameter_sources(config).items():
        for source in parts:
            assert source.put is not None, source.name
            tensors[source.name] = np.ascontiguousarray(source.put(leaves[at][source.index]))
    save_file(tensors, path, metadata={"format": "pt"})


def _check_names(config: DecoderConfig, files: TensorFiles,
                 sources: dict[str, tuple[jax.ShapeDtypeStruct, list[Source]]], directory: Path) -> None:  # fmt: skip
    expected = {source.name: source for _, parts in sources.values() for source in parts}
    extra = files.names - expected.keys()
    embedding, head = embedding_and_head(config)
    if config.tied_embeddings and head in extra and embedding in files.names:
        read = dict(files.read([head, embedding]))
        if not np.array_equal(read[head], read[embedding]):
            raise InputError(f"{directory}: tie_word_embeddings is true, but {head} is not the embedding")
        extra -= {head}
    faults = []
    if missing := sorted(expected.keys() - files.names):
        faults.append(f"missing tensors: {first_of(missing)}")
    if extra:
        faults.append(f"unexpected tensors: {first_of(sorted(extra))}")
    misshapen = [
        f"{name} is {list(files.shape(name))}, config.json makes it {list(expected[name].shape)}"
        for name in sorted(expected.keys() & files.names)
        if files.shape(name) != expected[name].shape
    ]
    if misshapen:
        faults.append(f"misshapen tensors: {first_of(misshapen)}")
    if faults:
        raise InputError(f"{directory}: {'; '.join(faults)}")


def _one_dtype(files: TensorFiles, sources: dict[str, tuple[jax.ShapeDtypeStruct, list[Source]]],
               directory: Path) -> str:  # fmt: skip
    by_dtype: dict[str, list[str]] = {}
    for _, parts in sources.values():
        for source in parts:
            by_dtype.setdefault(files.dtype(source.name), []).append(source.name)
    for dtype, names in by_dtype.items():
        if dtype not in DTYPES.values():
            raise InputError(f"{directory}: tensor {names[0]!r} has dtype {dtype}, supported: {', '.join(DTYPES)}")
    if len(by_dtype) > 1:
        named = ", ".join(f"{names[0]} is {dtype}" for dtype, names in sorted(by_dtype.items()))
        raise InputError(f"{directory}: tensors of different dtypes ({named}); save the model in one dtype")
    return next(iter(by_dtype))


def _require_finite(tensor: np.ndarray, name: str, directory: Path) -> None:
    # The exponent bits say it in one integer comparison; isfinite of bfloat16 is many times slower.
    bits: np.ndarray = tensor.reshape(-1).view(np.uint16 if tensor.itemsize == 2 else np.uint32)
    exponent = bits.dtype.type(NON_FINITE[tensor.itemsize][tensor.dtype.name])
    for start in range(0, bits.size, 1 << 22):
        bad = (bits[start : start + (1 << 22)] & exponent) == exponent
        if bad.any():
            where = np.unravel_index(start + int(np.argmax(bad)), tensor.shape)
            raise InputError(f"{directory}: tensor {name!r} is not finite at {[int(i) for i in where]}")


def _aligned(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """An uninitialised array that a CPU device can use in place, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + ALIGNMENT, np.uint8)
    offset = -memory.ctypes.data % ALIGNMENT
    return memory[offset : offset + size].view(dtype).reshape(shape)
