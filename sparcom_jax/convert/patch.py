"""A copy of a Hugging Face directory in which parts of some tensors are others; all else is the same, byte by byte."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes  # noqa: F401 (NumPy learns the names of dtypes)
import numpy as np

from sparcom_jax.convert.files import INDEX, SINGLE, TensorFiles
from sparcom_jax.convert.slices import TensorSlice
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.progress import say

OTHER_WEIGHTS = (".bin", ".pth", ".pt", ".ckpt", ".gguf", ".h5", ".msgpack", ".onnx", ".safetensors")
"""Files of weights that transformers would not read here, or that would go on being the unedited model's."""


@dataclass(frozen=True)
class Change:
    """What becomes of a part of a tensor.

    Attributes:
      part: the part.
      factor: what it is multiplied by, in float32, then rounded to the tensor's dtype.
      value: what it is set to in the place of that, if not None.
      shift: what is added to it then, in float32, if not None.
    """

    part: TensorSlice
    factor: float = 0.0
    value: float | None = None
    shift: np.ndarray | None = None

    def of(self, values: np.ndarray) -> np.ndarray:
        """The part as it becomes.

        Raises:
          InputError: a value does not fit into the dtype.
        """
        if self.value is not None or not self.factor:
            return np.full_like(values, self.value or 0)
        with np.errstate(over="ignore"):
            scaled = values.astype(np.float32) * np.float32(self.factor)
            made = (scaled if self.shift is None else scaled + self.shift).astype(values.dtype)
        if not np.isfinite(made.astype(np.float32)).all():
            what = f"{self.factor:g} times its values" if self.shift is None else "with the means added, it"
            raise InputError(f"{self.part.name}: {what} is beyond {values.dtype}")
        return made


def copied_files(directory: Path, files: TensorFiles) -> tuple[list[str], list[str]]:
    """Which files of a directory belong to the checkpoint, and which are left aside: other weights and folders.

    Args:
      directory: the checkpoint.
      files: those that its tensors are read from.
    """
    mine: list[str] = []
    left: list[str] = []
    for path in sorted(directory.iterdir()):
        sharded = path.name == INDEX and files.files != [SINGLE]
        weights = path.name.endswith(OTHER_WEIGHTS) or path.name.endswith(".index.json")
        keep = path.is_file() and (path.name in files.files or sharded or not weights)
        (mine if keep else left).append(path.name)
    return mine, left


def write_patched(
    directory: Path,
    files: TensorFiles,
    changes: Mapping[str, Sequence[Change]],
    output: Path,
    done: Callable[[], None],
) -> None:
    """Writes the copy.

    Args:
      directory: the checkpoint.
      files: its tensors.
      changes: by the name of a tensor, what becomes of parts of it.
      output: directory to fill, which is there and empty.
      done: called after every file and every tensor.

    Raises:
      InputError: a changed value does not fit into its tensor.
    """
    mine, left = copied_files(directory, files)
    if left:
        say(f"{directory}: not copied, for they are no part of the checkpoint: {first_of(left)}")
    for name in mine:
        shutil.copyfile(directory / name, output / name)
        done()
    for name, of in changes.items():
        place = files.place(name)
        tensor = np.memmap(output / place.file, np.dtype(place.dtype), "r+", place.offset, place.shape)
        for change in of:
            tensor[change.part.within] = change.of(tensor[change.part.within])
        tensor.flush()
        del tensor
        done()
