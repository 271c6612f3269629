"""Layers that are compiled as a pattern compute what the same layers compute one after another."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparcom_jax.batches.packing import fill
from sparcom_jax.models import config as models_config
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig, DenseMLP, Experts, GroupedQuery, Latent, Layer, Rope
from sparcom_jax.models.context import Compute
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import Kernels
from sparcom_jax.models.mixers import empty_cache
from sparcom_jax.models.segments import Segment
from sparcom_jax.models.stored import stored_params
from sparcom_jax.models.taps import LayerTaps
from tests.parameters import tree_of

NEAR, FAR = GroupedQuery(sliding_window=5), GroupedQuery(rope=1)
LATENT = Latent(query_rank=6, rank=5, plain_size=4, value_size=3)
DENSE = DenseMLP(12)
EXPERTS = Experts(count=4, per_token=2, width=6, normalize=True, shared_width=10)

LAYERS: dict[str, tuple[list[Layer], list[tuple[int, int, int]]]] = {
    "three and one": (
        [Layer(LATENT if layer % 4 == 3 else NEAR, DENSE) for layer in range(9)], [(0, 4, 2), (8, 1, 1)],
    ),
    "in turns": ([Layer(FAR, (DENSE, EXPERTS)[layer % 2]) for layer in range(5)], [(0, 2, 2), (4, 1, 1)]),
    "dense first": ([Layer(NEAR, DENSE), *[Layer(FAR, EXPERTS)] * 3], [(0, 1, 1), (1, 1, 2), (3, 1, 1)]),
    "windows": ([Layer(FAR if layer % 3 == 2 else NEAR, DENSE) for layer in range(4)], [(0, 1, 3), (3, 1, 1)]),
}  # fmt: skip
"""Layers, and their segments as start, period and repeats."""

LENGTHS = (40, 3, 17)
SHAPE = Shape(128, 128, 4)
NEXT = Shape(SHAPE.rows, None, SHAPE.rows)
POSITIONS = 64
COMPUTE = Compute(None, Kernels("one_window", "blocks", "scatter16"))
"""Kernels that compile fast."""


def make_config(layers: list[Layer]) -> DecoderConfig:
    return DecoderConfig(
        family="pattern", vocab_size=50, width=16, layers=tuple(layers), heads=2, kv_heads=2, head_size=8,
        activation="silu", norm="rms", norm_epsilon=1e-6, ropes=(Rope("default", 1e4, 4), Rope("default", 1e2, 4)),
        max_positions=128, tied_embeddings=False, head=False, score_scale=8**-0.5,
    )  # fmt: skip


def some_edits(config: DecoderConfig) -> Edits:
    random = np.random.default_rng(1)
    dense, routed = len(config.dense_layers), len(config.moe_layers)

    def scale(*shape: int) -> Any:
        return NeuronEdit(scale=random.normal(1, 0.5, shape).astype(np.float32))

    mlp = scale(dense, 1, DENSE.width) if dense else NeuronEdit()
    if not routed:
        return Edits(mlp=mlp)
    allowed: Any = np.ones((routed, 1, EXPERTS.count), bool)
    allowed[np.arange(routed), 0, np.arange(routed) % EXPERTS.count] = False
    return Edits(
        mlp=mlp,
        shared=scale(routed, 1, EXPERTS.shared_width),
        routed=scale(routed, 1, EXPERTS.count, EXPERTS.width),
        expert=allowed,
    )


def keep(taps: LayerTaps) -> dict[str, Any]:
    return {name: (jnp.sum(tap.gate), getattr(tap, "logits", tap.product)) for name, tap in taps.items()}


def texts() -> Batch:
    random = np.random.default_rng(0)
    ids = [random.integers(0, 50, length, np.int32) for length in LENGTHS]
    batch: Batch = jax.tree.map(jnp.asarray, fill(SHAPE, ids, [np.ones(length, bool) for length in LENGTHS]))
    return batch


def next_tokens() -> Batch:
    rows, padding = len(LENGTHS), SHAPE.rows - len(LENGTHS)
    row = np.asarray([*range(rows), *[SHAPE.rows] * padding], np.int32)
    position = np.asarray([*LENGTHS, *[0] * padding], np.int32)
    leaves = [np.arange(SHAPE.rows, dtype=np.int32), position, row, row < rows, np.zeros_like(row)]
    return Batch(*map(jnp.asarray, leaves))


def everything(config: DecoderConfig) -> Callable[[Params, Edits], Any]:
    """The forward pass, the next token by the cache, and gradients."""

    def loss(params: Params, edits: Edits) -> tuple[jax.Array, Any]:
        decoder = bind(config, params)
        cache = empty_cache(config, SHAPE.rows, POSITIONS, jnp.dtype("float32"))
        read = decoder(texts(), SHAPE, edits=edits, reduce=keep, cache=cache, compute=COMPUTE)
        one = decoder(next_tokens(), NEXT, edits=edits, cache=read.cache, compute=COMPUTE)
        hidden = read.hidden[: sum(LENGTHS)], one.hidden[: len(LENGTHS)]
        return sum(jnp.sum(jnp.sin(x)) for x in hidden), (hidden, read.taps, read.finite)

    return jax.jit(jax.grad(loss, has_aux=True), compiler_options={"xla_backend_optimization_level": 0})


def assert_close(one: Any, other: Any) -> None:
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for mine, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * max(float(np.abs(theirs).max()), 1))


@pytest.mark.parametrize("name", LAYERS)
def test_a_pattern_is_its_layers_one_after_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    layers, segments = LAYERS[name]
    config = make_config(layers)
    assert config.segments == tuple(Segment(*one) for one in segments)
    random = np.random.default_rng(2)
    stored = {path: random.normal(0, 0.3, one.shape).astype(np.float32) for path, one in stored_params(config).items()}
    edits = some_edits(config)
    gradients, results = everything(config)(tree_of(config, stored), edits)

    monkeypatch.setattr(models_config, "segments_of", lambda _: tuple(Segment(n, 1, 1) for n in range(len(layers))))
    unrolled = replace(config, family="unrolled")
    assert len(unrolled.segments) == len(layers)
    gradients_unrolled, results_unrolled = everything(unrolled)(tree_of(unrolled, stored), edits)
    assert_close(results, results_unrolled)
    of_layers = jax.tree.leaves(gradients_unrolled)
    by_path = {
        path: of_layers[one.leaf] if one.repeat is None else of_layers[one.leaf][one.repeat]
        for path, one in stored_params(unrolled).items()
    }
    assert all(np.abs(gradient).max() > 0 for gradient in by_path.values())
    monkeypatch.undo()
    assert_close(gradients, tree_of(config, by_path))


@pytest.mark.parametrize("name", LAYERS)
def test_a_pass_that_begins_at_a_layer_goes_on_with_the_stream_before_it(name: str) -> None:
    layers, segments = LAYERS[name]
    config, batch = make_config(layers), texts()
    random = np.random.default_rng(2)
    stored = {path: random.normal(0, 0.3, one.shape).astype(np.float32) for path, one in stored_params(config).items()}
    firsts = [first for start, period, repeats in segments for first in range(start, start + period * repeats, period)]
    assert [config.boundary(layer) for layer in range(len(layers))] == [
        max(first for first in firsts if first <= layer) for layer in range(len(layers))
    ]

    def passes(params: Params, edits: Edits, batch: Batch) -> list[Any]:
        decoder = bind(config, params)
        found: list[Any] = [decoder(batch, SHAPE, edits=edits, compute=COMPUTE)]
        for first in firsts[1:]:
            unedited = decoder(batch, SHAPE, edits=from_layer(config, edits, first), compute=COMPUTE)
            stream, points = decoder.stream(batch, SHAPE, first, compute=COMPUTE)
            begun = decoder(batch._replace(stream=stream), SHAPE, edits=edits, compute=COMPUTE, start=first)
            found.append((begun, unedited, points))
        return found

    run = jax.jit(passes, compiler_options={"xla_backend_optimization_level": 0})
    whole, *others = run(tree_of(config, stored), some_edits(config), batch)
    for first, (begun, unedited, points) in zip(firsts[1:], others, strict=True):
        assert points.shape == (2 * first, SHAPE.slots)
        assert begun.finite.shape == whole.finite.shape
        assert begun.finite.all()
        assert_close(begun.hidden, unedited.hidden)
        assert not np.allclose(begun.hidden, whole.hidden, rtol=0, atol=1e-3), "the edits before act"


def from_layer(config: DecoderConfig, edits: Edits, first: int) -> Edits:
    """The same edits, without those of the layers before one."""

    def cut(edit: Any, numbers: tuple[int, ...], neutral: float) -> Any:
        before = np.reshape([number < first for number in numbers], (-1, *[1] * (edit.ndim - 1)))
        return jnp.where(before, jnp.asarray(neutral, edit.dtype), edit)

    def neurons(edit: NeuronEdit, numbers: tuple[int, ...]) -> NeuronEdit:
        scale = None if edit.scale is None else cut(edit.scale, numbers, 1)
        return NeuronEdit(scale, None if edit.shift is None else cut(edit.shift, numbers, 0))

    moe = config.moe_layers
    expert = None if edits.expert is None else cut(edits.expert, moe, 1)
    return Edits(
        neurons(edits.mlp, config.dense_layers), neurons(edits.shared, moe), neurons(edits.routed, moe), expert
    )


def test_a_block_is_one_layer() -> None:
    config = make_config(LAYERS["three and one"][0])
    stored = {path: np.full(one.shape, int(path.split("/")[1]) if path.startswith("layers/") else 0, np.float32)
              for path, one in stored_params(config).items()}  # fmt: skip
    decoder = bind(config, tree_of(config, stored))
    for layer in range(config.num_layers):
        block = decoder.block(layer)
        assert block.mlp.gate.kernel.shape == (16, 12)
        assert set(np.asarray(block.mlp.gate.kernel[...]).ravel()) == {layer}
