"""Which kernels a kind of device has.

What is right for a device is measured, by `benchmarks/capture.py` on CPU and by `benchmarks/accelerator` elsewhere; the
figures are in docs/performance.md. All kernels give the same numbers but for rounding.
"""

from dataclasses import dataclass
from typing import Literal

import jax

AttentionKernel = Literal["own_window", "one_window", "triton"]
ExpertsKernel = Literal["pieces", "blocks", "triton", "ragged"]
CountingKernel = Literal["scatter16", "scatter32", "matmul"]


@dataclass(frozen=True)
class Kernels:
    """A kernel for each part that has several.

    Attributes:
      attention: of packed texts (`kernels/attention.py`). `own_window`: each block of queries sees as few keys as its
        own texts need; `one_window`: all blocks see equally many; `triton`: a Pallas kernel (`kernels/flash.py`).
      experts: of the routed experts (`kernels/experts.py`). `pieces`: one expert after another; `blocks`: a batched
        product whose operands are copies of the experts' weights; `triton`: a Pallas kernel that reads the weights
        where they are; `ragged`: `jax.lax.ragged_dot`.
      counting: of sums over the tokens of a text (`kernels/counting.py`). `scatter16` and `scatter32`: a segment sum in
        integers of so many bits; `matmul`: a product with the texts' indicator.
    """

    attention: AttentionKernel
    experts: ExpertsKernel
    counting: CountingKernel


CPU = Kernels("own_window", "pieces", "scatter16")
# XLA for NVIDIA's GPUs (JAX 0.10, 0.11) turns a ragged_dot into a product with every expert, most of it zeros.
NVIDIA = Kernels("triton", "triton", "scatter32")
OTHER_GPU = Kernels("one_window", "blocks", "scatter32")
# A TPU adds the rows of a scatter one after another, and has a ragged_dot of its own.
TPU = Kernels("one_window", "ragged", "matmul")

ENOUGH_SHARED_MEMORY = ("8.0", "9.0", "10.0", "10.3")
"""Compute capabilities of NVIDIA's data centre devices, whose shared memory holds the tiles of the Pallas kernels; that
of others is half as large."""


def kernels_for(platform: str, capability: str = "") -> Kernels:
    """The kernels that suit a kind of device best.

    Args:
      platform: `cpu`, `tpu` or `gpu`.
      capability: of a GPU; NVIDIA's are numbers, AMD's names like gfx942.
    """
    if platform in ("cpu", "tpu"):
        return CPU if platform == "cpu" else TPU
    return NVIDIA if capability in ENOUGH_SHARED_MEMORY else OTHER_GPU


def kernels_of(device: jax.Device) -> Kernels:
    """The kernels that suit a device best."""
    return kernels_for(device.platform, str(getattr(device, "compute_capability", "")))


def default_kernels() -> Kernels:
    """Those of this process's first device."""
    return kernels_of(jax.local_devices()[0])
