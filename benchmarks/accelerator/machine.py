"""Part `machine`: what there is, and what it allows: products, copies, and what passes between it and the host."""

import os
import platform
import shutil
import statistics
import subprocess
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator.record import Record, median_of
from sparcom_jax.models.kernels.choice import default_kernels

PACKAGES = ("jax", "jaxlib", "flax", "numpy", "torch", "transformers", "safetensors", "orbax-checkpoint", "tensorstore",
            "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")  # fmt: skip
CHAIN = 8
"""Products or copies of one program, so that starting it costs nothing beside them."""


def on_cpu() -> bool:
    """Whether there is no accelerator, so that everything is tried in a small form."""
    return jax.default_backend() == "cpu"


def _describe(record: Record) -> None:
    """Takes down the devices, the driver and the versions of all packages that matter."""
    devices = jax.local_devices()
    record.fact("devices", f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
    record.figure("devices", len(devices), "")
    record.fact("kernels", str(default_kernels()))
    record.fact("host", f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores")
    record.fact("python", platform.python_version())
    for package in PACKAGES:
        try:
            record.fact(package, version(package))
        except PackageNotFoundError:
            continue
    if command := shutil.which("nvidia-smi"):
        asked = [command, "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=30)
        record.fact("nvidia-smi", "; ".join((answer.stdout or answer.stderr).strip().splitlines()))
    if limit := memory_limit():
        record.figure("memory of a device", limit / 1e9, "GB")


def memory_limit() -> int:
    """Bytes that JAX may have of the first device's memory; 0 where it does not say."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return int(statistics.get("bytes_limit", 0))


def peak_memory() -> int:
    """The most bytes of the first device's memory that this process has had so far; 0 where JAX does not say."""
    statistics = jax.local_devices()[0].memory_stats() or {}
    return int(statistics.get("peak_bytes_in_use", 0))


def measure(record: Record) -> None:
    """Takes down what there is, and rates: of products in both dtypes, and of copies on the device and to the host."""
    _describe(record)
    size = 512 if on_cpu() else 8192
    for dtype in ("bfloat16", "float32"):
        record.attempt(f"products in {dtype}", lambda dtype=dtype: _products(record, size, dtype))
    values = (1 << 22) if on_cpu() else (1 << 29)
    record.attempt("copy", lambda: _copy(record, values))
    if not on_cpu():
        record.attempt("host", lambda: _host(record, values // 4))


def _products(record: Record, size: int, dtype: str) -> None:
    key = jax.random.key(0)
    x = jax.random.normal(key, (size, size), jnp.dtype(dtype))
    # Scaled so that the values stay where they are: products of zeros run faster.
    w = (jax.random.normal(jax.random.key(1), (size, size)) / np.sqrt(size)).astype(dtype)

    @jax.jit
    def chain(x: jax.Array, w: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return jax.lax.fori_loop(0, CHAIN, lambda _, x: x @ w, x)

    _rate(record, f"products, {dtype}", lambda: chain(x, w), 2 * size**3 * CHAIN / 1e12, "TFLOP/s")


def _copy(record: Record, values: int) -> None:
    x = jax.random.normal(jax.random.key(0), (values,), jnp.float32)
    chain = jax.jit(lambda x: jax.lax.fori_loop(0, CHAIN, lambda _, x: jax.lax.optimization_barrier(-x), x))
    _rate(record, "copy on the device, bytes read and written", lambda: chain(x), 2 * x.nbytes * CHAIN / 1e9, "GB/s")


def _host(record: Record, values: int) -> None:
    fresh = jax.jit(lambda seed: jax.random.normal(jax.random.key(seed), (values,), jnp.float32))
    waiting = [jax.block_until_ready(fresh(seed)) for seed in range(_rounds() + 1)]
    _rate(record, "from the device to the host", lambda: np.asarray(waiting.pop()), 4 * values / 1e9, "GB/s")
    here = np.random.default_rng(0).standard_normal(values, np.float32)
    _rate(record, "from the host to the device", lambda: jax.device_put(here), here.nbytes / 1e9, "GB/s")


def _rate(record: Record, name: str, job: Callable[[], Any], work: float, unit: str) -> None:
    rates = [work / seconds for seconds in median_of(lambda: jax.block_until_ready(job()), _rounds())]
    record.figure(name, statistics.median(rates), unit, spread=rates)


def _rounds() -> int:
    return 3 if on_cpu() else 7
