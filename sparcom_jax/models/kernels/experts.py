"""The routed experts' MLPs over tokens that are sorted by expert (`routing.py`): the ways to do it.

Axis legend: D model width, E experts, F neurons of an expert, M entries of the dispatch, A inputs and B outputs of a
projection, G matrices that a product chooses from, C entries of a piece: up to PIECE blocks of one expert.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sparcom_jax.models.edits import NeuronEdit
from sparcom_jax.models.kernels.choice import ExpertsKernel
from sparcom_jax.models.kernels.tiles import exact
from sparcom_jax.models.routing import Dispatch, dispatch

MIN_BLOCK, MAX_BLOCK = 16, 128
PIECE = 6
"""The most blocks of an expert that go through one product."""

Activate = Callable[[Array, Array], tuple[Array, Array]]
"""Of gate and up projection: the activation of the former, and the product with the latter."""


class ExpertMLPs(NamedTuple):
    """What the experts compute with.

    Attributes:
      weights: `gate`, `up` [E, D, F] and `down` [E, F, D], and where there are biases `gate_bias` and so on [E, ...];
        with a leading axis of layers where `place` is given.
      activate: what happens between the projections.
      edit: what becomes of the input of the down projection.
      variant: of each entry; None where the edit has one only.
      place: which layer is meant; None where the weights are those of one layer.
    """

    weights: dict[str, Array]
    activate: Activate
    edit: NeuronEdit = NeuronEdit()
    variant: Int[Array, "M"] | None = None
    place: Int[Array, ""] | None = None


def arrange(chosen: Int[Array, "S K"], local: int, experts: int, kernel: ExpertsKernel) -> tuple[Dispatch, int]:
    """Sorts the tokens by expert, as a kernel needs it.

    Args:
      chosen: experts of each token; `local` for those that are not on this device.
      local: experts on this device.
      experts: E of the model.
      kernel: as in `Kernels`.

    Returns:
      The dispatch, and the entries of a block.
    """
    block = 1 if kernel == "ragged" else block_size(chosen.size, experts)
    # A piece is read whole, so that the last one needs room.
    return dispatch(chosen, local, block, PIECE if kernel == "pieces" else 0), block


def block_size(routed: int, experts: int) -> int:
    """Entries of a block, a power of two: about a quarter of what an expert has on average.

    On average half a block of each expert is padding; smaller blocks make more shapes of products to compile and to
    choose from.

    Args:
      routed: tokens times experts per token.
      experts: E of the model.
    """
    quarter = routed // (4 * experts)
    return min(max(1 << (quarter.bit_length() - 1) if quarter else 0, MIN_BLOCK), MAX_BLOCK)


def run_experts(
    entries: Float[Array, "M D"], plan: Dispatch, block: int, experts: ExpertMLPs, kernel: ExpertsKernel
) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
    """Outputs, gates and products of each entry; unused entries hold anything.

    Args:
      entries: inputs, in the order of the dispatch.
      plan: the dispatch,
      block: and its blocks, as `arrange` made them for this kernel.
      experts: what they compute.
      kernel: as in `Kernels`.
    """
    if kernel == "pieces":
        return _in_pieces(entries, plan, block, experts)

    def project(x: Float[Array, "M A"], name: str) -> Float[Array, "M B"]:
        weight = experts.weights[name]
        if kernel == "ragged":
            y = jax.lax.ragged_dot(x, _own(weight, experts.place), plan.tokens, precision=exact(x.dtype))
        else:
            # Of all layers at once: to take out those of one would copy them.
            group = plan.expert[::block] + (0 if experts.place is None else experts.place * weight.shape[-3])
            used = jnp.sum(-(-plan.tokens // block))
            y = blockwise_matmul(x, weight.reshape(-1, *weight.shape[-2:]), group, used, kernel)
        bias = experts.weights.get(f"{name}_bias")
        return y if bias is None else y + _own(bias, experts.place)[plan.expert]

    gate, product = experts.activate(project(entries, "gate"), project(entries, "up"))
    return project(experts.edit.apply(product, experts.variant, plan.expert), "down"), gate, product


def blockwise_matmul(
    x: Float[Array, "M A"],
    weight: Float[Array, "G A B"],
    group: Int[Array, "blocks"],
    used: Int[Array, ""],
    kernel: ExpertsKernel,
) -> Float[Array, "M B"]:
    """A product in which each block of rows has a matrix of its own.

    Args:
      x: the rows, blocks of M / len(group).
      weight: the matrices.
      group: matrix of each block.
      used: blocks that matter, the first ones; the others may come out as anything finite.
      kernel: `triton` or `blocks`; sizes that Triton cannot cut into tiles go the latter way.
    """
    block = len(x) // len(group)
    tiles = [_tile(size, most) for size, most in zip(weight.shape[1:], _most_tiles(x.dtype), strict=True)]
    if kernel == "triton" and min(tiles) >= MIN_BLOCK:
        return _triton_matmul(x, weight, group, used)
    products = jnp.einsum("NCA,NAB->NCB", x.reshape(-1, block, x.shape[1]), weight[group])
    return products.reshape(len(x), -1)


def _most_tiles(dtype: Any) -> tuple[int, int]:
    """Largest tile of the inputs, which are added up, and of the outputs of a Triton product."""
    return (64, 128) if jnp.dtype(dtype).itemsize == 2 else (32, 64)


def _tile(size: int, most: int) -> int:
    """The largest power of two that divides a size, at most `most`."""
    return min(size & -size, most)


@jax.custom_vjp
def _triton_matmul(
    x: Float[Array, "M A"], weight: Float[Array, "G A B"], group: Int[Array, "blocks"], used: Int[Array, ""]
) -> Float[Array, "M B"]:
    return _triton(x, weight, group, used, transposed=False)


def _triton_forward(*inputs: Array) -> tuple[Array, tuple[Array, ...]]:
    return _triton_matmul(*inputs), inputs


def _triton_backward(inputs: tuple[Array, ...], y: Float[Array, "M B"]) -> tuple[Array | None, ...]:
    x, weight, group, used = inputs
    # Of the weights only where somebody trains: the compiler leaves it out otherwise.
    _, of_weight = jax.vjp(lambda weight: blockwise_matmul(x, weight, group, used, "blocks"), weight)
    return _triton(y, weight, group, used, transposed=True), *of_weight(y), None, None


_triton_matmul.defvjp(_triton_forward, _triton_backward)


def _triton(x: Array, weight: Array, group: Array, used: Array, *, transposed: bool) -> Array:
    """The Pallas kernel; one program for each block of rows and tile of columns.

    With `transposed` the rows are multiplied with the transposes of the matrices.
    """
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import triton

    inputs, outputs = weight.shape[:0:-1] if transposed else weight.shape[1:]
    block = len(x) // len(group)
    most = _most_tiles(x.dtype)
    depth, columns = _tile(inputs, most[0]), _tile(outputs, most[1])
    precision = exact(x.dtype)

    def kernel(group_ref: Any, used_ref: Any, x_ref: Any, weight_ref: Any, y_ref: Any) -> None:
        number, column = pl.program_id(1), pl.program_id(0)
        matrix = group_ref[number]

        def add(step: Array, total: Array) -> Array:
            along, across = pl.ds(step * depth, depth), pl.ds(column * columns, columns)
            rows = x_ref[:, along]
            tile = weight_ref[matrix, across, along] if transposed else weight_ref[matrix, along, across]
            return total + triton.dot(rows, tile, trans_b=transposed, precision=precision)

        # Blocks that nobody needs come out as zeros.
        steps = (number < used_ref[0]).astype(jnp.int32) * (inputs // depth)
        total = jax.lax.fori_loop(0, steps, add, jnp.zeros((block, columns), jnp.float32))
        y_ref[...] = total.astype(y_ref.dtype)

    def call(interpret: bool, *operands: Array) -> Array:
        whole = [pl.BlockSpec(one.shape, lambda _, __, rank=one.ndim: (0,) * rank) for one in operands]
        whole[2] = pl.BlockSpec((block, inputs), lambda _, number: (number, 0))
        product: Array = pl.pallas_call(
            kernel,
            out_shape=jax.ShapeDtypeStruct((len(x), outputs), x.dtype),
            grid=(outputs // columns, len(group)),
            in_specs=whole,
            out_specs=pl.BlockSpec((block, columns), lambda column, number: (number, column)),
            compiler_params=triton.CompilerParams(num_warps=8 if block * columns > 64 * 64 else 4, num_stages=3),
            interpret=interpret,
            name="blockwise_matmul",
        )(*operands)
        return product

    # Where there is no GPU the kernel is interpreted, slowly, so that it can be tested.
    product: Array = jax.lax.platform_dependent(
        group, used.reshape(1), x, weight, cpu=partial(call, True), default=partial(call, False)
    )
    return product


def _own(stacked: Array, place: Int[Array, ""] | None) -> Array:
    return stacked if place is None else stacked[place]


def pieces(plan: Dispatch, block: int) -> tuple[Int[Array, "P"], Int[Array, "P"], Int[Array, "P"]]:
    """Cuts the entries of each expert into pieces of at most PIECE blocks, in the order of the entries.

    Returns:
      Of each piece its expert, its first entry and how many blocks it has; 0 for pieces that are not needed, which
      begin at the unused end of the dispatch.
    """
    blocks = -(-plan.tokens // block)
    of_expert = -(-blocks // PIECE)
    ends = jnp.cumsum(of_expert)
    number = jnp.arange(-(-plan.entry.size // (PIECE * block)) + len(blocks), dtype=jnp.int32)
    expert = jnp.minimum(jnp.searchsorted(ends, number, side="right"), len(blocks) - 1)
    before = (number - (ends - of_expert)[expert]) * PIECE
    needed = number < ends[-1]
    size = jnp.where(needed, jnp.minimum(blocks[expert] - before, PIECE), 0)
    first = jnp.where(needed, (jnp.cumsum(blocks) - blocks)[expert] + before, len(plan.slot) // block - PIECE)
    return expert, first * block, size


def _in_pieces(
    entries: Float[Array, "M D"], plan: Dispatch, block: int, experts: ExpertMLPs
) -> tuple[Float[Array, "M D"], Float[Array, "M F"], Float[Array, "M F"]]:
    """A piece at a time: up to PIECE blocks of one expert, in one product.

    Measured on CPU: a product costs the reading of the expert's weights, whatever its entries, so an expert has as few
    of them as it can; and which of PIECE sizes it has is chosen when it runs, so that no more than a part of a block is
    padding.
    """
    weights, activate, edits, variants, place = experts

    def compute(
        rows: int, x: Float[Array, "C D"], expert: Int[Array, ""], edit: NeuronEdit, variant: Int[Array, "C"] | None
    ) -> tuple[Array, Array, Array]:
        mine = {name: w[expert] if place is None else w[place, expert] for name, w in weights.items()}

        def project(x: Array, name: str) -> Array:
            y = x @ mine[name]
            return y + mine[f"{name}_bias"] if f"{name}_bias" in mine else y

        gate, product = activate(project(x[:rows], "gate"), project(x[:rows], "up"))
        edited = edit.apply(product, None if variant is None else variant[:rows])
        outputs, gate, product = (
            jnp.pad(result, ((0, len(x) - rows), (0, 0))) for result in (project(edited, "down"), gate, product)
        )
        return outputs, gate, product

    sizes = [partial(compute, count * block) for count in range(PIECE + 1)]

    @jax.checkpoint  # training would keep what each of the sizes computes
    def choose(size: Int[Array, ""], *inputs: Any) -> tuple[Array, Array, Array]:
        return jax.lax.switch(size, sizes, *inputs)

    def step(results: tuple[Array, ...], one: tuple[Array, ...]) -> tuple[tuple[Array, ...], None]:
        expert, start, size = one
        x, variant = jax.tree.map(
            lambda of_entries: jax.lax.dynamic_slice_in_dim(of_entries, start, PIECE * block), (entries, variants)
        )
        found = choose(size, x, expert, jax.tree.map(lambda values: values[:, expert], edits), variant)
        # What lies after the piece is overwritten by the next one.
        pairs = zip(results, found, strict=True)
        return tuple(jax.lax.dynamic_update_slice_in_dim(old, new, start, 0) for old, new in pairs), None

    neurons = weights["gate"].shape[-1]
    empty = tuple(jnp.zeros((len(entries), width), entries.dtype) for width in (entries.shape[-1], neurons, neurons))
    (outputs, gate, product), _ = jax.lax.scan(step, empty, pieces(plan, block))
    return outputs, gate, product
