"""Where and how a model runs: the settings of its execution, and their rules."""

import re
from dataclasses import dataclass

from sparcom_jax.errors import InputError

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class ExecutionSettings:
    """Where and how a model runs.

    Attributes:
      batch_tokens: token slots of a batch, per device.
      placement: `pmap`, every device has the whole model; `mesh:N`, N local devices share it; `mesh`, all of them do.
      dtype: `auto`, `float32`, `bfloat16` or `float16`; `auto` is float32 on CPU, else the checkpoint's own.
    """

    batch_tokens: int = 1024
    placement: str = "pmap"
    dtype: str = "auto"

    def check(self) -> None:
        """Refuses values that mean nothing.

        Raises:
          InputError: a field is unknown or out of range.
        """
        if self.batch_tokens < 1:
            raise InputError(f"execution.batch_tokens must be positive, got {self.batch_tokens}")
        if self.dtype not in ("auto", *DTYPES):
            raise InputError(f"execution.dtype {self.dtype!r} is not supported; supported: auto, {', '.join(DTYPES)}")
        parse_placement(self.placement)


def parse_placement(placement: str) -> tuple[str, int | None]:
    """The kind of a placement, `pmap` or `mesh`, and how many devices share a batch; None is all of them.

    Raises:
      InputError: it is none of `pmap`, `mesh` and `mesh:N`.
    """
    kind, colon, number = placement.partition(":")
    if kind == "mesh" and colon and re.fullmatch(r"[1-9][0-9]*", number):
        return kind, int(number)
    if colon or kind not in ("pmap", "mesh"):
        raise InputError(
            f"execution.placement {placement!r} is not known; known: pmap, mesh, and mesh:N: N devices share a batch"
        )
    return kind, 1 if kind == "pmap" else None
