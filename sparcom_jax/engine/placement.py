"""Placements: how parameters and batches lie on this process's devices, and how a step runs there.

`pmap`  every device has all parameters and a batch of its own.
`mesh`  devices form a grid ("data", "model"): along "data" each has a batch of its own; along "model" attention heads,
        neurons and experts are sharded, and each layer sums twice over the axis.

Processes do not talk to each other: each places the model on its local devices (`engine/processes.py`).
"""

import collections
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sparcom_jax.engine.settings import parse_placement
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.context import Compute
from sparcom_jax.models.decoder import Params, abstract_params
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.kernels.choice import Kernels, kernels_of

Step = Callable[..., Any]
T = TypeVar("T")

MOST_STEPS = 8
"""Batches that are computed at the same time on CPU, at most; each has activations and results of its own."""

# Which axis of a parameter is sharded over "model", counted from the last; parameters that are not named are whole.
SHARDED_AXIS = {
    "attention/q/kernel": 1, "attention/q/bias": 1, "attention/k/kernel": 1, "attention/k/bias": 1,
    "attention/v/kernel": 1, "attention/v/bias": 1, "attention/o/kernel": 2, "attention/sinks": 1,
    "attention/q_b/kernel": 1, "attention/kv/kernel": 1,
    "mlp/gate/kernel": 1, "mlp/gate/bias": 1, "mlp/up/kernel": 1, "mlp/up/bias": 1, "mlp/down/kernel": 2,
    "moe/shared/gate/kernel": 1, "moe/shared/up/kernel": 1, "moe/shared/down/kernel": 2,
    "moe/routed/gate": 3, "moe/routed/up": 3, "moe/routed/down": 3,
    "moe/routed/gate_bias": 2, "moe/routed/up_bias": 2, "moe/routed/down_bias": 2,
}  # fmt: skip
QK_NORM_SHARDED_AXIS = {"attention/q_norm/scale": 1, "attention/k_norm/scale": 1}

_ON_UNITS: Any = P(None, None, "model")
_WHOLE: Any = P()
EDIT_SPECS = Edits(mlp=_ON_UNITS, shared=_ON_UNITS, routed=_ON_UNITS, expert=_WHOLE, gate=_WHOLE, forced=_WHOLE)
"""How edits are sharded over a mesh, those that are there: by neurons, routed ones by experts."""


@dataclass(frozen=True)
class Placement:
    """Where the model lies.

    Attributes:
      kind: `pmap` or `mesh`.
      mesh: the local devices, as a ("data", "model") grid; for `pmap` the model axis has size 1.
      kernels: how they compute.
    """

    kind: str
    mesh: Mesh
    kernels: Kernels

    @property
    def data(self) -> int:
        """Batches that a step takes."""
        return int(self.mesh.shape["data"])

    @property
    def model(self) -> int:
        """Devices that share one batch."""
        return int(self.mesh.shape["model"])

    @property
    def axis(self) -> str | None:
        """The mesh axis that the decoder sums over, or None."""
        return "model" if self.kind == "mesh" else None

    @property
    def compute(self) -> Compute:
        """How a forward pass is computed on each device."""
        return Compute(self.axis, self.kernels)

    def param_shardings(self, config: DecoderConfig) -> Any:
        """A tree of shardings like the parameters."""
        specs = param_specs(config) if self.kind == "mesh" else jax.tree.map(lambda _: P(), abstract_params(config))
        return jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs)

    def put(self, tree: Any, specs: Any) -> Any:
        """Puts arrays that are no parameters onto the devices.

        Args:
          tree: the arrays.
          specs: how a mesh shards them: the tree, or one that ends earlier, with a spec for all that is below.
        """
        chosen = jax.tree.map(lambda spec: NamedSharding(self.mesh, spec), specs if self.kind == "mesh" else P())
        return jax.device_put(tree, chosen)

    def run_ahead(self, calls: Iterable[Callable[[], T]]) -> Iterator[T]:
        """Results of calls of compiled steps, in order; while one is taken, the next ones run.

        On CPU, no step keeps all cores busy all the time, and what one thread starts, JAX runs one after another; so
        each step has a thread that waits for it. Measured: 1.14 times as fast on two cores. Not so where devices share
        a batch: steps that exchange values must begin in the same order on all of them.
        """
        together = jax.default_backend() == "cpu" and self.axis is None
        threads = max(min(len(os.sched_getaffinity(0)), MOST_STEPS) // self.data, 1) if together else 1

        def run(call: Callable[[], T]) -> T:
            return jax.block_until_ready(call()) if together else call()

        pool = ThreadPoolExecutor(threads)
        flying: collections.deque[Future[T]] = collections.deque()
        try:
            for call in calls:
                flying.append(pool.submit(run, call))
                if len(flying) > threads + 1:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def compile(self, step: Step, config: DecoderConfig, extra_specs: Any, out_specs: Any) -> Step:
        """Compiles a step for all devices.

        Args:
          step: function of (params, batch, extra), all as one device sees them; what it returns is stacked.
          config: the model that `params` belong to.
          extra_specs: how a mesh shards `extra`, a tree of specs (of None if the step takes nothing more).
          out_specs: how a mesh shards what the step returns, a tree of specs without the leading device axis.

        Returns:
          A function of (params, batches, extra), where the leaves of `batches` have a leading axis of size `data`, and
          so has everything that it returns.
        """
        if self.kind == "pmap":
            return jax.pmap(step, in_axes=(None, 0, None), devices=list(self.mesh.devices.flat))

        def on_each(params: Params, batches: Any, extra: Any) -> Any:
            result = step(params, jax.tree.map(lambda leaf: leaf[0], batches), extra)
            return jax.tree.map(lambda leaf: leaf[None], result)

        stacked = jax.tree.map(lambda spec: P("data", *spec), out_specs, is_leaf=lambda leaf: isinstance(leaf, P))
        # The specs state which outputs are the same along "model"; the checker cannot see it through scatters.
        sharded = jax.shard_map(on_each, mesh=self.mesh, in_specs=(param_specs(config), P("data"), extra_specs),
                                out_specs=stacked, check_vma=False)  # fmt: skip
        return jax.jit(sharded)

    def shard(self, step: Step, in_specs: Any, out_specs: Any) -> Step:
        """A step on every device, for what is summed over all of them.

        Args:
          step: function of whatever `in_specs` has, as one device sees it.
          in_specs: how the arguments lie on the grid, whatever its kind.
          out_specs: how what it returns lies there.
        """
        return jax.shard_map(step, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def make_placement(placement: str, config: DecoderConfig) -> Placement:
    """Arranges this process's devices.

    Args:
      placement: `pmap`, `mesh` or `mesh:N`, as in `ExecutionSettings`.
      config: the model to be placed.

    Raises:
      InputError: the placement is unknown, or the devices, heads, neurons or experts cannot be divided.
    """
    devices = jax.local_devices()
    kind, sharing = parse_placement(placement)
    model = sharing or len(devices)
    if len(devices) % model:
        raise InputError(f"execution.placement {placement!r}: {model} does not divide the {len(devices)} local devices")
    divided = {"num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads}
    if config.dense_layers:
        divided["intermediate_size"] = config.mlp_width
    if config.experts:
        divided |= {"num_experts": config.experts.count, "shared_expert_intermediate_size": config.experts.shared_width}
    for name, size in divided.items():
        if size % model:
            raise InputError(f"execution.placement {placement!r}: {model} does not divide {name} {size}")
    return Placement(kind, _grid(devices, model), kernels_of(devices[0]))


def one_device(device: jax.Device | None = None) -> Placement:
    """A model on one device alone, by default the first one of this process."""
    device = device or jax.local_devices()[0]
    return Placement("pmap", _grid([device], 1), kernels_of(device))


def _grid(devices: Sequence[jax.Device], model: int) -> Mesh:
    return Mesh(np.asarray(devices).reshape(-1, model), ("data", "model"), axis_types=(AxisType.Auto, AxisType.Auto))


def param_specs(config: DecoderConfig) -> Any:
    """How a mesh shards the parameters: a tree of specs like them."""
    # A norm over all heads is sharded as they are; one per head, or of a latent, is the same for all.
    sharded_axis = SHARDED_AXIS | (QK_NORM_SHARDED_AXIS if config.qk_norm == "all" else {})

    def spec(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> P:
        from_last = sharded_axis.get("/".join(str(key.key) for key in path[3:]))
        if from_last is None:
            return P()
        return P(*("model" if axis == leaf.ndim - from_last else None for axis in range(leaf.ndim)))

    return jax.tree.map_with_path(spec, abstract_params(config))
