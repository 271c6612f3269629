"""What units are made of: which slices of which of the decoder's parameters.

A neuron is a column of gate and up projection, with its entries of their biases, and a row of the down projection. An
expert is its neurons, its down bias, and its column of the router, with its entry of the router's bias.

Switching neurons off (`models/edits.py`) equals, exactly, setting to 0 any one of:

- `down`: nothing is written to the residual stream;
- `gate` and `gate_bias`: every activation function is 0 at 0;
- `up` and `up_bias`, except behind gpt-oss's clamped gate, whose other factor is one more than its projection.

An expert whose slices but those of the router are 0 is still chosen and writes nothing; one whose `router_bias` is
minus infinity is never chosen, as `Edits.expert` has it. The weights of a router without bias cannot say that.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Int

from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.stored import stored_params
from sparcom_jax.units.groups import EXPERT_GROUP

Role = Literal["gate", "gate_bias", "up", "up_bias", "down", "down_bias", "router", "router_bias"]

NEURON_AXIS: Mapping[Role, int] = {"gate": 1, "gate_bias": 0, "up": 1, "up_bias": 0, "down": 0}
"""The parameters of one MLP that hold neurons, and the axis that these are on."""
ROUTER: Mapping[Role, str] = {"router": "moe/router/kernel", "router_bias": "moe/router/bias"}


@dataclass(frozen=True)
class ParameterSlice:
    """A part of a parameter: what units are made of, or a part of that.

    Parameters are named as they are stored (`models/stored.py`, which also says where they lie in memory). Of one it is
    `parameter[index][within]`, which can be assigned to where the parameter is a NumPy array.

    Attributes:
      role: what the parameter does in the MLP.
      path: the parameter, for example `layers/12/mlp/gate/kernel`.
      index: which part of the parameter is meant: `()`, or `(expert,)` where it has those of all experts.
      axis: axis of that part on which the units are.
      at: their places on it.
    """

    role: Role
    path: str
    index: tuple[int, ...]
    axis: int
    at: tuple[int, ...]

    @property
    def within(self) -> tuple[slice | list[int], ...]:
        """The units within `parameter[index]`."""
        return (*[slice(None)] * self.axis, list(self.at))


def unit_slices(
    config: DecoderConfig, group: str, layer: int, units: Int[np.ndarray, "n dims"]
) -> list[ParameterSlice]:
    """The slices of parameters that units of one layer are made of.

    Args:
      config: the model.
      group: `mlp`, `shared`, `routed` or `expert`.
      layer: the model's layer number.
      units: their indices, as `np.argwhere` of a mask over the layer's units gives them: neuron, expert, or expert and
        neuron.
    """
    prefix = f"layers/{layer}/"
    stored = stored_params(config)
    shapes = {path.removeprefix(prefix): one.shape for path, one in stored.items() if path.startswith(prefix)}
    slices: Iterable[ParameterSlice]
    if group in ("mlp", "shared"):
        mlp = "mlp" if group == "mlp" else "moe/shared"
        paths: dict[Role, str] = {
            role: f"{mlp}/{role.removesuffix('_bias')}/{'bias' if role.endswith('_bias') else 'kernel'}"
            for role in NEURON_AXIS
        }
        at = tuple(units[:, 0].tolist())
        slices = [ParameterSlice(role, paths[role], (), axis, at) for role, axis in NEURON_AXIS.items()]
    elif group == EXPERT_GROUP:
        slices = _of_experts(shapes, units[:, 0].tolist())
    else:
        slices = _of_routed_neurons(units)
    return [
        ParameterSlice(one.role, f"{prefix}{one.path}", one.index, one.axis, one.at)
        for one in slices
        if one.path in shapes and one.at
    ]


def _of_routed_neurons(units: Int[np.ndarray, "n 2"]) -> Iterator[ParameterSlice]:
    for expert in np.unique(units[:, 0]).tolist():
        at = tuple(units[units[:, 0] == expert, 1].tolist())
        for role, axis in NEURON_AXIS.items():
            yield ParameterSlice(role, f"moe/routed/{role}", (expert,), axis, at)


def _of_experts(shapes: Mapping[str, tuple[int, ...]], experts: list[int]) -> Iterator[ParameterSlice]:
    everything: dict[Role, int] = {**NEURON_AXIS, "down_bias": 0}
    for expert in experts:
        for role, axis in everything.items():
            if shape := shapes.get(f"moe/routed/{role}"):
                at = tuple(range(shape[1 + axis]))
                yield ParameterSlice(role, f"moe/routed/{role}", (expert,), axis, at)
    for role, path in ROUTER.items():
        yield ParameterSlice(role, path, (), 0 if role == "router_bias" else 1, tuple(experts))
