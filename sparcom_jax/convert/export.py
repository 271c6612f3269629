"""A converted model as a Hugging Face directory again, for whatever loads one."""

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from sparcom_jax.convert.checkpoint import COPIED
from sparcom_jax.convert.files import INDEX, SINGLE
from sparcom_jax.convert.model_dir import ModelDir, as_model, parameter_bytes
from sparcom_jax.convert.names import Source, parameter_sources
from sparcom_jax.convert.output import require_absent, whole_directory
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params
from sparcom_jax.models.stored import stored_params
from sparcom_jax.progress import progress

SHARD_BYTES = 5 << 30
METADATA = {"format": "pt"}


def export(model: ModelDir | str | Path, output: str | Path, *, shard_bytes: int = SHARD_BYTES) -> Path:
    """Writes a converted model as a Hugging Face directory, in its dtype, with its config and tokenizer.

    Its tensors are those of the checkpoint that was converted, bit by bit: dequantised where that was quantised, with
    the adapter that was merged. Converting the directory again gives a model of the same digest.

    Args:
      model: the model, or its directory.
      output: directory to make; it appears whole or not at all.
      shard_bytes: of the tensors of a file, at most.

    Returns:
      `output`.

    Raises:
      InputError: the output exists or cannot be written, or the model is a part of another one.
    """
    model, output = as_model(model), Path(output).absolute()
    require_absent(output)
    if wrapper := model.manifest["conversion"].get("text_model_of"):
        raise InputError(f"{model.path}: is the text model of a {wrapper}, whose config it has; it cannot be written "
                         f"without the rest")  # fmt: skip
    with whole_directory(output, parameter_bytes(model.config, model.dtype)) as partial:
        for name in COPIED:
            if (model.path / name).exists():
                shutil.copyfile(model.path / name, partial / name)
        _say_dtype(partial / "config.json", model.dtype)
        cpu = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
        save_tensors(model.config, model.restore(cpu, model.dtype), partial, shard_bytes)
    return output


def _say_dtype(path: Path, dtype: str) -> None:
    """The config of a checkpoint in floating point; what was quantised is not any more."""
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    quantised = config.pop("quantization_config", None)
    named = [field for field in ("dtype", "torch_dtype") if field in config]
    if quantised is None and all(config[field] == dtype for field in named) and named:
        return
    for field in named or ["torch_dtype"]:
        config[field] = dtype
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")


def save_tensors(config: DecoderConfig, params: Params, directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes parameters as the safetensors files of a checkpoint, under the names that transformers reads.

    Args:
      config: the model.
      params: its parameters.
      directory: as in `write_tensors`.
      shard_bytes: as in `write_tensors`.
    """
    dtype = str(jax.tree.leaves(params)[0].dtype)
    write_tensors(ParameterTensors(config, parameters_of(config, params), dtype), directory, shard_bytes)


def write_tensors(tensors: "ParameterTensors", directory: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Writes tensors as the safetensors files of a checkpoint.

    Args:
      tensors: they, under the names that transformers reads.
      directory: where to; the files are `model.safetensors`, or shards with an index.
      shard_bytes: of the tensors of a file, at most.
    """
    made = tensors.read(tensors.names)
    shards = list(_shards(tensors, shard_bytes))
    file_of = {}
    size = 0
    with progress("writing", sum(map(len, shards)), "tensors") as bar:
        for number, names in enumerate(shards, 1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            content = {}
            for name in names:
                content[name] = next(made)[1]
                file_of[name] = file
                size += content[name].nbytes
                bar.advance()
            save_file(content, directory / file, METADATA)
    if len(shards) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": file_of}
        (directory / INDEX).write_text(json.dumps(index, indent=2), encoding="utf-8")


class ParameterTensors:
    """The tensors of a checkpoint, made of parameters.

    Attributes:
      names: their names.
    """

    def __init__(self, config: DecoderConfig, parameter: Callable[[str], np.ndarray], dtype: str) -> None:
        """Makes nothing yet.

        Args:
          config: the model.
          parameter: gives a stored parameter by its path.
          dtype: of all of them.
        """
        self._of, self._parameter, self._dtype = _parts(config), parameter, dtype
        self.names = frozenset(self._of)

    @property
    def in_order(self) -> list[str]:
        """Their names in the order in which they are made."""
        return list(self._of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor."""
        return self._of[name][0][1].shape

    def dtype(self, name: str) -> str:
        """NumPy's name of a tensor's dtype."""
        del name
        return self._dtype

    def read(self, names: Iterable[str]) -> Iterator[tuple[str, np.ndarray]]:
        """Makes tensors one by one, those of a layer after each other."""
        wanted = {*names}
        for name, parts in self._of.items():
            if name in wanted:
                tensor = np.empty(self.shape(name), self._dtype)
                for path, source in parts:
                    source.put(tensor, self._parameter(path)[source.index])
                yield name, tensor


def parameters_of(config: DecoderConfig, params: Params) -> Callable[[str], np.ndarray]:
    """Gives the stored parameters of a model by their paths, out of its tree."""
    leaves, stored = [np.asarray(leaf) for leaf in jax.tree.leaves(params)], stored_params(config)

    def parameter(path: str) -> np.ndarray:
        at = stored[path]
        return leaves[at.leaf] if at.repeat is None else leaves[at.leaf][at.repeat]

    return parameter


def _parts(config: DecoderConfig) -> dict[str, list[tuple[str, Source]]]:
    """Of every tensor, which parameters it is made of."""
    found: dict[str, list[tuple[str, Source]]] = {}
    for path, (_, parts) in parameter_sources(config).items():
        for part in parts:
            found.setdefault(part.name, []).append((path, part))
    return found


def _shards(tensors: ParameterTensors, most: int) -> Iterable[list[str]]:
    names: list[str] = []
    room = most
    for name in tensors.in_order:
        size = np.dtype(tensors.dtype(name)).itemsize * math.prod(tensors.shape(name))
        if names and size > room:
            yield names
            names, room = [], most
        names.append(name)
        room -= size
    yield names
