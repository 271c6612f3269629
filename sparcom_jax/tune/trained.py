"""What is trained of a model: which parts of which of its parameters, and what they are before the first step.

Values that are trained are float32, whatever the model runs in, and so is the optimizer's state of them; there is none
of what is not trained.

Axis legend: n rows of a parameter, r rank.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int

from sparcom_jax.engine.placement import Placement, param_specs
from sparcom_jax.models.collectives import replicated_input
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, abstract_params
from sparcom_jax.models.patches import LowRankPatch, Patch, Patches, RowsPatch, WholePatch
from sparcom_jax.models.stored import Stored, stored_params
from sparcom_jax.units.parameters import ParameterSlice

Values = dict[str, Any]
"""What is trained, by the path of the parameter in the tree: an array, or `a` and `b` of a product of low rank."""

ADAPTED = (
    "attention/q/kernel", "attention/k/kernel", "attention/v/kernel", "attention/o/kernel", "attention/q_a/kernel",
    "attention/q_b/kernel", "attention/kv_a/kernel", "attention/kv/kernel", "mlp/gate/kernel", "mlp/up/kernel",
    "mlp/down/kernel", "moe/shared/gate/kernel", "moe/shared/up/kernel", "moe/shared/down/kernel",
)  # fmt: skip
"""What LoRA adds its products to: all projections of a layer but those of routed experts and their router."""


@dataclass(frozen=True)
class Whole:
    """A leaf of the tree as a whole."""

    leaf: int


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a leaf `[repeats, *shape]`.

    Attributes:
      leaf: which.
      axes: axes of `shape` that the rows are counted along; none for `shape` as a whole.
      at: the repeat of each row, then its places on those axes; ascending by repeat.
    """

    leaf: int
    axes: tuple[int, ...]
    at: Int[np.ndarray, "n _"]


@dataclass(frozen=True)
class LowRank:
    """A product of low rank beside a leaf of kernels."""

    leaf: int
    rank: int
    scale: float


Part = Whole | Rows | LowRank


@dataclass(frozen=True, eq=False)
class Trained:
    """The parts of a model that are trained, by the path of the parameter in the tree."""

    config: DecoderConfig
    parts: Mapping[str, Part]

    @cached_property
    def leaves(self) -> list[tuple[str, jax.ShapeDtypeStruct]]:
        """The leaves of the parameters' tree: path and shape."""
        found, _ = jax.tree.flatten_with_path(abstract_params(self.config))
        return [("/".join(str(getattr(key, "key", key)) for key in path), leaf) for path, leaf in found]

    @property
    def kept(self) -> list[int]:
        """The leaves that a step needs beside what is trained."""
        whole = {part.leaf for part in self.parts.values() if isinstance(part, Whole)}
        return [number for number in range(len(self.leaves)) if number not in whole]

    def shapes(self) -> Values:
        """Shapes of the values."""
        return {path: self._shape(part) for path, part in self.parts.items()}

    def count(self) -> int:
        """How many parameters are trained."""
        return sum(math.prod(shape) for shape in jax.tree.leaves(self.shapes(), is_leaf=_is_shape))

    def decayed(self) -> Values:
        """Which values weight decay acts on: all but those of norms, biases and attention sinks."""

        def of(path: str) -> bool:
            leaf = next(leaf for name, leaf in self.leaves if name == path)
            return leaf.ndim - path.startswith("segments/") >= 2 and not path.endswith("bias")

        return {path: jax.tree.map(lambda _, p=path: of(p), shape, is_leaf=_is_shape)
                for path, shape in self.shapes().items()}  # fmt: skip

    def specs(self, placement: Placement) -> Values:
        """How a mesh shards the values: as their parameters are, but for the axes that rows are counted along."""
        return {path: self._specs(part, placement) for path, part in self.parts.items()}

    def begin(self, leaves: list[Array], seed: int) -> Values:
        """The values before the first step, in float32.

        Args:
          leaves: the model's parameters.
          seed: of what LoRA begins with: `a` uniform in +-1 / sqrt(inputs) as PEFT has it, `b` 0.
        """
        values: Values = {}
        for number, (path, part) in enumerate(self.parts.items()):
            leaf = leaves[part.leaf]
            if isinstance(part, Whole):
                values[path] = leaf.astype(jnp.float32)
            elif isinstance(part, Rows):
                values[path] = leaf[_indices(part, leaf.ndim)].astype(jnp.float32)
            else:
                repeats, inputs, outputs = leaf.shape
                key = jax.random.fold_in(jax.random.key(seed), number)
                most = 1 / math.sqrt(inputs)
                values[path] = {
                    "a": jax.random.uniform(key, (repeats, inputs, part.rank), jnp.float32, -most, most),
                    "b": jnp.zeros((repeats, part.rank, outputs), jnp.float32),
                }
        return values

    def bound(self, kept: list[Array], values: Values, axis: str | None, dtype: str) -> tuple[Params, Patches]:
        """Parameters and patches of a model with these values; inside of a step, as one device sees them.

        Args:
          kept: the leaves that `kept` names, in the dtype that the model runs in.
          values: from `begin`, as they are by now.
          axis: the mesh axis that shards the model.
          dtype: that the model runs in.
        """
        _, tree = jax.tree.flatten(abstract_params(self.config))
        leaves: list[Any] = [None] * len(self.leaves)
        for number, leaf in zip(self.kept, kept, strict=True):
            leaves[number] = leaf
        of: list[list[dict[str, Patch]]] = [[{} for _ in range(one.period)] for one in self.config.segments]
        for path, part in self.parts.items():
            if isinstance(part, Whole):
                leaves[part.leaf] = values[path].astype(dtype)
                continue
            _, segment, position, within = path.split("/", 3)
            patch = self._patch(part, values[path], leaves[part.leaf], axis)
            of[int(segment)][int(position)][within] = patch
        return jax.tree.unflatten(tree, leaves), Patches(of)

    def as_stored(self, kept: list[Array], values: Values, dtype: str) -> Values:
        """Values as they are once `stored` has rounded them; products are merged into `kept`, and their `b` is 0.

        Args:
          kept: the leaves that `kept` names; those beside which products are trained are replaced.
          values: from `begin`, as they are by now.
          dtype: of the stored parameters.
        """
        made: Values = {}
        for path, part in self.parts.items():
            if not isinstance(part, LowRank):
                made[path] = values[path].astype(dtype).astype(jnp.float32)
                continue
            a, b = values[path]["a"], values[path]["b"]
            place = self.kept.index(part.leaf)
            leaf = kept[place]
            kept[place] = jax.device_put(_merged(leaf, a, b, part.scale, dtype), leaf.sharding)
            made[path] = {"a": a, "b": jnp.zeros_like(b)}
        return made

    def stored(self, values: Values, path: str, parameter: np.ndarray) -> np.ndarray:
        """A stored parameter with these values, rounded to its dtype; the same array where nothing of it is trained.

        Args:
          values: as NumPy arrays.
          path: of the parameter, as it is stored.
          parameter: it, as it was.
        """
        one = self._stored[path]
        name = self.leaves[one.leaf][0]
        part = self.parts.get(name)
        if part is None:
            return parameter
        dtype = parameter.dtype
        if isinstance(part, Whole):
            value = values[name] if one.repeat is None else values[name][one.repeat]
            return np.asarray(value).astype(dtype)
        assert one.repeat is not None
        if isinstance(part, LowRank):
            change = values[name]["a"][one.repeat] @ values[name]["b"][one.repeat]
            return (parameter.astype(np.float32) + np.float32(part.scale) * change).astype(dtype)
        mine = part.at[:, 0] == one.repeat
        if not mine.any():
            return parameter
        if not part.axes:
            return np.asarray(values[name][mine][0]).astype(dtype)
        made = np.array(parameter)
        rows = np.asarray(values[name])[mine].astype(dtype)
        where: list[Any] = [slice(None)] * made.ndim
        for axis, at in zip(part.axes, part.at[mine, 1:].T, strict=True):
            where[axis] = at
        made[tuple(where)] = np.moveaxis(rows, 0, part.axes[0]) if len(part.axes) == 1 else rows
        return made

    @cached_property
    def _stored(self) -> dict[str, Stored]:
        return stored_params(self.config)

    def _shape(self, part: Part) -> Any:
        shape = self.leaves[part.leaf][1].shape
        if isinstance(part, Whole):
            return shape
        if isinstance(part, Rows):
            return (len(part.at), *(size for axis, size in enumerate(shape[1:]) if axis not in part.axes))
        repeats, inputs, outputs = shape
        return {"a": (repeats, inputs, part.rank), "b": (repeats, part.rank, outputs)}

    def _specs(self, part: Part, placement: Placement) -> Any:
        if placement.axis is None:
            return jax.tree.map(lambda _: P(), self._shape(part), is_leaf=_is_shape)
        spec = jax.tree.leaves(param_specs(self.config))[part.leaf]
        sharded = [*spec, *[None] * (len(self.leaves[part.leaf][1].shape) - len(spec))]
        if isinstance(part, Whole):
            return P(*sharded)
        if isinstance(part, Rows):
            return P(None, *(one for axis, one in enumerate(sharded[1:]) if axis not in part.axes))
        _, inputs, outputs = sharded
        return {"a": P(None, inputs, None), "b": P(None, None, outputs)}

    def _patch(self, part: Rows | LowRank, values: Any, leaf: Array, axis: str | None) -> Patch:
        """What stands in the place of a leaf's parts, over its repeats.

        Where a mesh shards the leaf along an axis that the values do not have, every device has all of these and a
        gradient of its own share.
        """
        spec: Any = None if axis is None else jax.tree.leaves(param_specs(self.config))[part.leaf]
        sharded = None if axis is None or axis not in spec else list(spec).index(axis) - 1
        if isinstance(part, LowRank):
            a = replicated_input(values["a"], axis if sharded == 1 else None)
            b = replicated_input(values["b"], axis if sharded == 0 else None)
            return LowRankPatch(a, b, part.scale)
        repeats = leaf.shape[0]
        if not part.axes:
            slot = np.full(repeats, len(part.at), np.int32)
            slot[part.at[:, 0]] = np.arange(len(part.at))
            filled = jnp.take(values, slot, axis=0, mode="fill", fill_value=0)
            return WholePatch(filled, jnp.asarray(slot < len(part.at)))
        whole = replicated_input(values, axis if sharded in part.axes else None)
        slot, at = _by_repeat(part, repeats)
        places: Any = jnp.asarray(at)
        if axis is not None and sharded in part.axes:
            # Places of other devices are beyond the end: those before this device's part, too.
            column, size = part.axes.index(sharded), leaf.shape[1 + sharded]
            local = places[..., column] - jax.lax.axis_index(axis) * size
            places = places.at[..., column].set(jnp.where(local < 0, np.iinfo(np.int32).max, local))
        return RowsPatch(jnp.take(whole, slot, axis=0, mode="fill", fill_value=0), places, part.axes)


@partial(jax.jit, static_argnums=(3, 4))
def _merged(leaf: Array, a: Array, b: Array, scale: float, dtype: str) -> Array:
    change = jnp.einsum("lir,lro->lio", a, b, precision="highest")
    return (leaf.astype(jnp.float32) + scale * change).astype(dtype).astype(leaf.dtype)


def _is_shape(value: Any) -> bool:
    return isinstance(value, tuple)


def _indices(part: Rows, ndim: int) -> tuple[Any, ...]:
    """The rows within the leaf; NumPy puts them first."""
    where: list[Any] = [slice(None)] * ndim
    where[0] = part.at[:, 0]
    for axis, at in zip(part.axes, part.at[:, 1:].T, strict=True):
        where[1 + axis] = at
    return tuple(where)


def _by_repeat(part: Rows, repeats: int) -> tuple[Int[np.ndarray, "L most"], Int[np.ndarray, "L most axes"]]:
    """The rows of each repeat, and their places; where it has fewer, rows and places that are nowhere."""
    counts = np.bincount(part.at[:, 0], minlength=repeats)
    slot = np.full((repeats, counts.max()), len(part.at), np.int32)
    at = np.full((*slot.shape, len(part.axes)), np.iinfo(np.int32).max, np.int32)
    place = np.arange(len(part.at)) - np.repeat(np.cumsum(counts) - counts, counts)
    slot[part.at[:, 0], place] = np.arange(len(part.at))
    at[part.at[:, 0], place] = part.at[:, 1:]
    return slot, at


def train_all(config: DecoderConfig) -> Trained:
    """Everything."""
    names = Trained(config, {}).leaves
    return Trained(config, {path: Whole(number) for number, (path, _) in enumerate(names)})


def train_low_rank(config: DecoderConfig, rank: int, alpha: float) -> Trained:
    """Products of low rank beside all that `ADAPTED` names."""
    parts: dict[str, Part] = {
        path: LowRank(number, rank, alpha / rank)
        for number, (path, _) in enumerate(Trained(config, {}).leaves)
        if path.startswith("segments/") and path.split("/", 3)[3] in ADAPTED
    }
    return Trained(config, parts)


def train_layers(config: DecoderConfig, layers: Iterable[int]) -> Trained:
    """All parameters of some layers."""
    prefixes = tuple(f"layers/{layer}/" for layer in layers)
    rows: dict[int, list[tuple[int, ...]]] = {}
    for path, one in stored_params(config).items():
        if path.startswith(prefixes):
            assert one.repeat is not None
            rows.setdefault(one.leaf, []).append((one.repeat,))
    return _of_rows(config, {leaf: ((), at) for leaf, at in rows.items()})


def train_slices(config: DecoderConfig, slices: Iterable[ParameterSlice]) -> Trained:
    """Slices of parameters, those that units are made of."""
    stored = stored_params(config)
    rows: dict[int, tuple[tuple[int, ...], list[tuple[int, ...]]]] = {}
    for one in slices:
        place = stored[one.path]
        assert place.repeat is not None
        axes = (*range(len(one.index)), len(one.index) + one.axis)
        _, found = rows.setdefault(place.leaf, (axes, []))
        found += [(place.repeat, *one.index, at) for at in one.at]
    return _of_rows(config, rows)


def _of_rows(config: DecoderConfig, rows: Mapping[int, tuple[tuple[int, ...], list[tuple[int, ...]]]]) -> Trained:
    names = Trained(config, {}).leaves
    parts: dict[str, Part] = {
        names[leaf][0]: Rows(leaf, axes, np.asarray(sorted(at), np.int32)) for leaf, (axes, at) in sorted(rows.items())
    }
    return Trained(config, parts)


def global_norm(values: Values) -> Float[Array, ""]:
    """The length of all values as one vector."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(values)))
