"""The decoder: one forward pass for every model family, for capture, ablation, generation and training.

Axis legend: S token slots of a batch, R texts of a batch, L layers, D model width, V vocabulary.
Texts lie one after another in the slots, so that projections waste nothing on padding; attention keeps them apart.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float

from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig, Experts, Layer
from sparcom_jax.models.context import Compute, Context, LayerConstants, default_compute, make_context
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.faults import all_finite
from sparcom_jax.models.layers import MLP, Embedding, Linear, Norm, finite, squash
from sparcom_jax.models.mixers import Cache, mixer_of
from sparcom_jax.models.moe import MoE
from sparcom_jax.models.patches import LayerPatches, Patches, patch
from sparcom_jax.models.segments import Segment
from sparcom_jax.models.taps import LayerTaps, Reduce, RoutedTap

Params = dict[str, Any]
"""The decoder's parameters as a plain tree of arrays."""
KEPT = {
    "nothing": jax.checkpoint_policies.nothing_saveable,
    "products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
"""What is kept of each layer for a backward pass, by `Compute.keep`."""


class Output(NamedTuple):
    """What a forward pass returns.

    Attributes:
      hidden: outputs of the final norm, from which `Decoder.logits` reads.
      taps: what `reduce` made of each tap, stacked over the layers that have it; empty without `reduce`.
      finite: whether the residual stream is finite as attention and as MLP of each layer read it, two points a layer;
        with the latter, the router's logits. The compiler leaves out what nobody reads.
      cache: the cache that was given, with what the batch added to it.
    """

    hidden: Float[Array, "S D"]
    taps: dict[str, Any]
    finite: Bool[Array, "points S"]
    cache: Cache | None


class Block(nnx.Module):
    """One layer: attention and an MLP or MoE, added to the residual stream, with norms before or after them."""

    def __init__(self, config: DecoderConfig, layer: Layer, rngs: nnx.Rngs) -> None:
        if config.pre_norm:
            self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        if config.post_norm:
            self.attention_post_norm, self.mlp_post_norm = _norm(config), _norm(config)
        self.attention = mixer_of(layer.mixer)(config, layer.mixer, rngs)
        if isinstance(layer.mlp, Experts):
            self.moe = MoE(config, layer.mlp, rngs)
        else:
            self.mlp = MLP(config.width, layer.mlp.width, config.activation, rngs,
                           bias=config.mlp_bias, gated=config.gated)  # fmt: skip
        self.layer = layer
        self.config = config

    def __call__(
        self, x: Float[Array, "S D"], context: Context, constants: LayerConstants, edits: Edits, cache: Cache | None
    ) -> tuple[Float[Array, "S D"], LayerTaps, Bool[Array, "2 S"], Cache | None]:
        """Returns the residual stream after the layer, the layer's taps and points as in `Output`, and the cache."""
        pre, post = self.config.pre_norm, self.config.post_norm
        read = self.attention_norm(x) if pre else x
        kind = self.config.mixers.index(self.layer.mixer)
        attended, state = self.attention(read, context, constants, None if cache is None else cache[kind])
        cache = None if cache is None else (*cache[:kind], state, *cache[kind + 1 :])
        attended = self.attention_post_norm(attended) if post else attended
        stream = x if self.config.parallel else x + attended
        read = self.mlp_norm(stream) if pre else stream
        if self.layer.routed:
            y, taps = self.moe(read, edits, context, constants.repeat)
            routed = taps["routed"]
            assert isinstance(routed, RoutedTap)
            sound = finite(stream) & all_finite(routed.logits)
        else:
            y, tap = self.mlp(read, edits.mlp, context.batch.variant, axis=context.compute.axis)
            taps = {"mlp": tap}
            sound = finite(stream)
        y = self.mlp_post_norm(y) if post else y
        return (x + attended) + y, taps, jnp.stack([finite(x), sound]), cache


class Decoder(nnx.Module):
    """A decoder-only language model.

    Of a segment of layers, each position of its pattern is one `Block` whose parameters have a leading axis of
    repeats, and the forward pass scans over them: compile time does not grow with depth.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.embed = Embedding(config.vocab_size, config.width, rngs)
        self.segments = nnx.List(
            nnx.List(_stacked_block(config, config.layers[layers[0]].structure, len(layers), rngs)
                     for layers in map(segment.layers, range(segment.period)))
            for segment in config.segments
        )  # fmt: skip
        self.norm = _norm(config)
        if config.head and not config.tied_embeddings:
            self.head = Linear(config.width, config.vocab_size, bias=False, rngs=rngs)
        self.config = config
        self.patches: Patches | None = None

    def __call__(
        self,
        batch: Batch,
        shape: Shape,
        *,
        edits: Edits | None = None,
        reduce: Reduce | None = None,
        cache: Cache | None = None,
        compute: Compute | None = None,
        start: int = 0,
    ) -> Output:
        """Runs the model over a batch.

        Args:
          batch: the packed texts.
          shape: its sizes.
          edits: interventions, over all layers.
          reduce: turns the taps of a layer into what is kept of them; None keeps nothing.
          cache: what was read before, to which the batch is added; None keeps none.
          compute: how it is computed; None: on this process's first device.
          start: the first layer that runs (`config.boundary`), which reads `batch.stream`, made by `stream`; taps are
            those of the layers that run, and points before it count as finite.
        """
        x = self._embedded(batch) if batch.stream is None else batch.stream
        context = make_context(self.config, batch, shape, compute or default_compute())
        layers = range(start, self.config.num_layers)
        x, taps, points, cache = self._through(x, layers, context, edits or Edits(), reduce, cache)
        before = jnp.ones((2 * start, len(batch.row)), bool)
        return Output(self.norm(x), taps, jnp.concatenate([before, points]), cache)

    def stream(
        self, batch: Batch, shape: Shape, layer: int, *, compute: Compute | None = None
    ) -> tuple[Float[Array, "S D"], Bool[Array, "points S"]]:
        """The residual stream as a layer reads it, and the points before, as in `Output`.

        Args:
          batch: the packed texts.
          shape: its sizes.
          layer: one that a pass can begin at (`config.boundary`), not the first.
          compute: as in a call.
        """
        context = make_context(self.config, batch, shape, compute or default_compute())
        x, _, points, _ = self._through(self._embedded(batch), range(layer), context, Edits(), None, None)
        return x, points

    def _embedded(self, batch: Batch) -> Float[Array, "S D"]:
        x = self.embed(batch.token)
        return x * jnp.asarray(self.config.embedding_scale, x.dtype) if self.config.embedding_scale != 1.0 else x

    def _through(
        self, x: Float[Array, "S D"], layers: range, context: Context, edits: Edits, reduce: Reduce | None,
        cache: Cache | None,
    ) -> tuple[Float[Array, "S D"], dict[str, Any], Bool[Array, "points S"], Cache | None]:  # fmt: skip
        """Passes consecutive layers; returns the residual stream, and what `Output` has of them."""
        kept: dict[str, list[Any]] = {}
        points = []
        for number, (segment, blocks) in enumerate(zip(self.config.segments, self.segments, strict=True)):
            repeats = segment.repeats_within(layers)
            if not repeats:
                continue
            trained = None if self.patches is None else self.patches.of[number]
            stacked = _Stacked(segment, blocks, trained)
            (x, cache), found = _run_segment(stacked, repeats, (x, cache), context, edits, reduce)
            sound, statistics = _in_order(found)
            points.append(sound.reshape(-1, sound.shape[-1]))
            for name, tree in statistics.items():
                kept.setdefault(name, []).append(tree)
        taps = {name: jax.tree.map(lambda *parts: jnp.concatenate(parts), *trees) for name, trees in kept.items()}
        return x, taps, jnp.concatenate(points), cache

    def block(self, layer: int) -> Block:
        """One layer by itself."""
        segment, position, repeat = self.config.location(layer)
        graph, params = nnx.split(self.segments[segment][position])
        return nnx.merge(graph, jax.tree.map(lambda leaf: leaf[repeat], params))

    def logits(self, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
        """Logits of the next token, read off the output of the final norm."""
        logits = self.embed.attend(hidden) if self.config.tied_embeddings else self.head(hidden)
        return squash(logits, self.config.logit_cap)


def _norm(config: DecoderConfig) -> Norm:
    return Norm(config.width, config.norm_epsilon, config.norm)


class _Stacked(NamedTuple):
    """The layers of a segment: a block for each position of its pattern, and what is trained of them, if anything."""

    segment: Segment
    blocks: Sequence[Block]
    patches: Sequence[LayerPatches] | None


def _run_segment(
    stacked: _Stacked,
    repeats: range,
    carry: tuple[Array, Cache | None],
    context: Context,
    edits: Edits,
    reduce: Reduce | None,
) -> tuple[tuple[Array, Cache | None], list[tuple[Array, dict[str, Any]]]]:
    """Runs repeats of a segment.

    Returns the carry, and of each position of the pattern the points and what is kept, `[repeats, ...]`.
    """
    segment, blocks, patches = stacked
    # The routed experts stay in one piece: a scan would copy those of a layer out of it, most of its weights. Not for a
    # gradient of them, which would be one of that piece in every layer.
    in_one_piece = nnx.PathContains("routed") if patches is None else nnx.Nothing()
    split = [nnx.split(block, in_one_piece, ...) for block in blocks]
    layers = [segment.layers(position) for position in range(segment.period)]
    config = blocks[0].config
    inputs = [
        (params, _edits_of(config, edits, alike), _constants(config, alike, in_one_piece=patches is None), of)
        for (_, _, params), alike, of in zip(split, layers, patches or [{}] * segment.period, strict=True)
    ]

    def pattern(carry: tuple[Array, Cache | None], inputs: Any) -> tuple[tuple[Array, Cache | None], Any]:
        x, cache = carry
        found = []
        for (graph, routed, _), (params, layer_edits, constants, trained) in zip(split, inputs, strict=True):
            block = nnx.merge(graph, routed, params)
            patch(block, trained)
            x, taps, sound, cache = block(x, context, constants, layer_edits, cache)
            found.append((sound, {} if reduce is None else reduce(taps)))
        return (x, cache), found

    run = (
        pattern if context.compute.keep == "everything" else jax.checkpoint(pattern, policy=KEPT[context.compute.keep])
    )
    if len(repeats) == 1:
        # No loop: the compiler leaves out what nobody reads, in a capture most of the last layer's MLP.
        carry, found = run(carry, jax.tree.map(lambda leaf: leaf[repeats[0]], inputs))
        return carry, jax.tree.map(lambda leaf: leaf[None], found)
    if len(repeats) == segment.repeats:
        return jax.lax.scan(run, carry, inputs)

    def numbered(carry: tuple[Array, Cache | None], number: Array) -> tuple[tuple[Array, Cache | None], Any]:
        return run(carry, jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, number, keepdims=False), inputs))

    # By number, because a part of the inputs would be a copy of most weights of the model.
    return jax.lax.scan(numbered, carry, jnp.asarray(repeats))


def _in_order(found: list[tuple[Array, dict[str, Any]]]) -> tuple[Array, dict[str, Any]]:
    """Points and what is kept of the layers of a segment, in their order, from those of each position."""

    def interleaved(*parts: Array) -> Array:
        return parts[0] if len(parts) == 1 else jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])

    names = dict.fromkeys(name for _, kept in found for name in kept)
    trees = {name: [kept[name] for _, kept in found if name in kept] for name in names}
    return interleaved(*(sound for sound, _ in found)), {
        name: jax.tree.map(interleaved, *parts) for name, parts in trees.items()
    }


def _edits_of(config: DecoderConfig, edits: Edits, layers: range) -> Edits:
    """The edits of the layers at one position of a segment; edits count dense layers and those with experts apart."""
    routed = config.layers[layers[0]].routed
    counted = config.moe_layers if routed else config.dense_layers
    first, *others = [counted.index(layer) for layer in layers]
    step = others[0] - first if others else 1  # a pattern has equally many of them each time
    return edits.of(routed=routed).rows(slice(first, first + step * len(layers), step))


def _constants(config: DecoderConfig, layers: range, *, in_one_piece: bool) -> LayerConstants:
    mixers = [config.layers[layer].mixer for layer in layers]
    everything = np.iinfo(np.int32).max
    windows = np.asarray([mixer.sliding_window or everything for mixer in mixers], np.int32)
    ropes = np.asarray([mixer.rope for mixer in mixers], np.int32)
    kind = config.layers[layers[0]].structure.mixer
    states = [number for number, layer in enumerate(config.layers) if layer.structure.mixer == kind]
    return LayerConstants(
        jnp.asarray(windows) if any(layer.mixer.sliding_window for layer in config.layers) else None,
        jnp.asarray(ropes) if len(config.ropes) > 1 else None,
        jnp.asarray([states.index(layer) for layer in layers], jnp.int32),
        jnp.arange(len(layers), dtype=jnp.int32) if in_one_piece else None,
    )


def _stacked_block(config: DecoderConfig, layer: Layer, repeats: int, rngs: nnx.Rngs) -> Block:
    @nnx.split_rngs(splits=repeats)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Block:
        return Block(config, layer, rngs)

    return build(rngs)


@lru_cache
def _skeleton(config: DecoderConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))), nnx.Param)


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes of the parameters (`jax.ShapeDtypeStruct` leaves), without making any."""
    return nnx.to_pure_dict(_skeleton(config)[1])


def bind(config: DecoderConfig, params: Params, patches: Patches | None = None) -> Decoder:
    """Puts parameters into the decoder; meant to be called inside a jitted function.

    Args:
      config: the model.
      params: a tree like `abstract_params(config)`, with arrays as leaves.
      patches: what stands in the place of parts of them while these are trained; empty ones where it is the parameters
        themselves that a gradient is taken of.
    """
    graph, skeleton = _skeleton(config)
    state = jax.tree.map(lambda leaf: leaf, skeleton)
    nnx.replace_by_pure_dict(state, params)
    decoder: Decoder = nnx.merge(graph, state)
    decoder.patches = patches
    return decoder
