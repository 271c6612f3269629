"""Part `experts`: the routed experts of one layer by each kernel that this JAX has, beside those that the engine uses.

Every kernel is given the same tokens, routed evenly at random, and is checked against a loop over the experts before it
is timed. The rate counts the operations that the tokens need, so that padding and copies show as what is missing.
"""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from benchmarks.accelerator.machine import on_cpu
from benchmarks.accelerator.record import Record, median_of
from benchmarks.accelerator.shapes import SHAPES, decoder_config, small
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.kernels.choice import ExpertsKernel, default_kernels
from sparcom_jax.models.kernels.experts import ExpertMLPs, arrange, run_experts
from sparcom_jax.models.routing import Dispatch

MOST_ERROR = 0.02
"""Of bfloat16, relative to the largest output; a wrong kernel is off by the output itself."""
ROUNDS = 5
Weights = dict[str, Array]
Grouped = Callable[[Array, Array, Array], Array]
"""(rows sorted by expert [M, A], weights [E, A, B], rows of each expert [E]) -> [M, B]."""


def compare(record: Record) -> None:
    """Measures all kernels at the shapes of both released MoE models; in the small form, of one."""
    for model in ("Qwen1.5-MoE-A2.7B",) if on_cpu() else ("Qwen1.5-MoE-A2.7B", "gpt-oss-20b"):
        fields = small(SHAPES[model]) if on_cpu() else SHAPES[model]
        config = decoder_config(fields, 1)
        slots = 256 if on_cpu() else 8192
        x, chosen, weights = _inputs(config, slots, jnp.float32 if on_cpu() else jnp.bfloat16)
        expected = jax.jit(_loop)(x, chosen, weights)
        usual = default_kernels().experts
        # On CPU a Pallas kernel is interpreted: its time says nothing, and takes long.
        ours = [name for name in get_args(ExpertsKernel) if not (on_cpu() and name == "triton")]
        kernels: dict[str, Any] = {name: partial(_by_kernel, kernel=name) for name in ours}
        kernels |= {name: partial(_by_grouped, grouped=one) for name, one in libraries().items()}
        for name, kernel in kernels.items():
            title = f"{model}, {name}" + (", which is used" if name == usual else "")
            job = partial(_measure, record, title, kernel, x, chosen, weights, expected)
            record.attempt(title, job, optional=name != usual)


def libraries() -> dict[str, Grouped]:
    """Grouped products that come with JAX for this kind of device; imported when tried, because a JAX may lack them."""

    def megablox(x: Array, weight: Array, sizes: Array) -> Array:
        from jax.experimental.pallas.ops.tpu.megablox import gmm

        return gmm(x, weight, sizes, preferred_element_type=x.dtype)

    def mosaic(x: Array, weight: Array, sizes: Array) -> Array:
        from jax.experimental.pallas.ops.gpu.ragged_dot_mgpu import ragged_dot

        return ragged_dot(x, weight, group_sizes=sizes, block_m=128, block_n=128, block_k=64, max_concurrent_steps=4,
                          grid_block_n=1)  # fmt: skip

    return {"tpu": {"megablox": megablox}, "gpu": {"mosaic": mosaic}}.get(jax.default_backend(), {})


def _inputs(config: DecoderConfig, slots: int, dtype: Any) -> tuple[Array, Array, Weights]:
    experts, keys = config.experts, jax.random.split(jax.random.key(0), 5)
    assert experts is not None
    count, width, neurons = experts.count, config.width, experts.width
    shapes = {"gate": (count, width, neurons), "up": (count, width, neurons), "down": (count, neurons, width)}

    @partial(jax.jit, static_argnums=1)
    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        return (jax.random.normal(key, shape) / np.sqrt(shape[-2])).astype(dtype)

    weights = {name: draw(key, shape) for key, (name, shape) in zip(keys, shapes.items(), strict=False)}
    x = jax.random.normal(keys[3], (slots, width)).astype(dtype)
    _, chosen = jax.lax.top_k(jax.random.normal(keys[4], (slots, count)), experts.per_token)
    return x, chosen, weights


def _activate(gate: Array, up: Array) -> tuple[Array, Array]:
    gate = jax.nn.silu(gate)
    return gate, gate * up


def _by_kernel(x: Array, chosen: Array, weights: Weights, *, kernel: ExpertsKernel) -> Array:
    count = len(weights["gate"])
    plan, block = arrange(chosen, count, count, kernel)
    entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
    outputs, *_ = run_experts(entries, plan, block, ExpertMLPs(weights, _activate), kernel)
    return _summed(outputs, plan)


def _by_grouped(x: Array, chosen: Array, weights: Weights, *, grouped: Grouped) -> Array:
    count = len(weights["gate"])
    plan, _ = arrange(chosen, count, count, "ragged")
    entries = jnp.take(x, plan.slot, axis=0, mode="fill", fill_value=0)
    _, product = _activate(*(grouped(entries, weights[name], plan.tokens) for name in ("gate", "up")))
    return _summed(grouped(product, weights["down"], plan.tokens), plan)


def _summed(outputs: Array, plan: Dispatch) -> Array:
    return jnp.take(outputs, plan.entry, axis=0, mode="fill", fill_value=0).sum(axis=1)


def _loop(x: Float[Array, "S D"], chosen: Array, weights: Weights) -> Float[Array, "S D"]:
    """One expert after another, over all tokens: slow, and what the others are compared with."""

    def add(total: Array, one: tuple[Array, Weights]) -> tuple[Array, None]:
        expert, mine = one
        _, product = _activate(x @ mine["gate"], x @ mine["up"])
        routed = jnp.any(chosen == expert, axis=1)[:, None]
        return total + jnp.where(routed, (product @ mine["down"]).astype(jnp.float32), 0.0), None

    experts = jnp.arange(len(weights["gate"]))
    with jax.default_matmul_precision("highest"):
        total, _ = jax.lax.scan(add, jnp.zeros(x.shape, jnp.float32), (experts, weights))
    return total


def _measure(
    record: Record, title: str, kernel: Any, x: Array, chosen: Array, weights: Weights, expected: Array
) -> None:
    compiled = jax.jit(kernel)
    found = np.asarray(compiled(x, chosen, weights), np.float32)
    error = float(np.abs(found - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())
    record.figure(f"{title}: error", error, "of the largest", goal=MOST_ERROR, strict=True)
    flops = 2 * chosen.size * sum(w.shape[1] * w.shape[2] for w in weights.values())
    rates = [
        flops / seconds / 1e12
        for seconds in median_of(lambda: jax.block_until_ready(compiled(x, chosen, weights)), ROUNDS)
    ]
    record.figure(title, statistics.median(rates), "TFLOP/s", spread=rates)
