"""The decoder: one forward pass for every model family, for capture, ablation, generation and training.

Axis legend: S token slots of a batch, R texts of a batch, L layers, D model width, V vocabulary.
Texts lie one after another in the slots, so that projections waste nothing on padding; attention keeps them apart.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from sparcom_jax.models.attention import Attention, Cache, LatentAttention, View
from sparcom_jax.models.config import DecoderConfig, LayerKind, LayerRun
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.faults import all_finite
from sparcom_jax.models.kernels.choice import Kernels, default_kernels
from sparcom_jax.models.layers import MLP, Embedding, Norm, finite, squash
from sparcom_jax.models.moe import MoE
from sparcom_jax.models.rope import Rotary, rotary, text_lengths
from sparcom_jax.models.taps import LayerTaps, Reduce, RoutedTap

Params = dict[str, Any]
"""The decoder's parameters as a plain tree of arrays."""


class Batch(NamedTuple):
    """Texts packed into slots.

    Attributes:
      token: token ids; anything in padding.
      position: position of the token in its text, from 0.
      row: which text of the batch the slot belongs to, not falling; R for padding, which comes last.
      counted: whether the token counts in the statistics.
      variant: which variant of the edits the slot is under; not read where these have one only.
    """

    token: Int[Array, "S"]
    position: Int[Array, "S"]
    row: Int[Array, "S"]
    counted: Bool[Array, "S"]
    variant: Int[Array, "S"]


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

    def __init__(self, config: DecoderConfig, kind: LayerKind, rngs: nnx.Rngs) -> None:
        if config.pre_norm:
            self.attention_norm, self.mlp_norm = _norm(config), _norm(config)
        if config.post_norm:
            self.attention_post_norm, self.mlp_post_norm = _norm(config), _norm(config)
        self.attention = (LatentAttention if config.latent else Attention)(config, rngs)
        if kind == "moe":
            self.moe = MoE(config, rngs)
        else:
            self.mlp = MLP(config.width, config.mlp_width, config.activation, rngs,
                           bias=config.mlp_bias, gated=config.gated)  # fmt: skip
        self.kind = kind
        self.config = config

    def __call__(
        self,
        x: Float[Array, "S D"],
        batch: Batch,
        by: Rotary,
        real: Bool[Array, "S"],
        edits: Edits,
        *,
        view: View,
        cache: Cache | None,
        axis: str | None,
        kernels: Kernels,
        place: Int[Array, ""] | None,
    ) -> tuple[Float[Array, "S D"], LayerTaps, Bool[Array, "2 S"], Cache | None]:
        """Returns the residual stream after the layer, the layer's taps and points as in `Output`, and the cache.

        `place` is as in `RoutedExperts`.
        """
        pre, post = self.config.pre_norm, self.config.post_norm
        read = self.attention_norm(x) if pre else x
        attended, cache = self.attention(
            read, by, batch.row, batch.position, view=view, cache=cache, axis=axis, kernel=kernels.attention
        )
        attended = self.attention_post_norm(attended) if post else attended
        stream = x if self.config.parallel else x + attended
        read = self.mlp_norm(stream) if pre else stream
        if self.kind == "moe":
            y, taps = self.moe(read, real, edits, batch.variant, axis=axis, kernel=kernels.experts, place=place)
            routed = taps["routed"]
            assert isinstance(routed, RoutedTap)
            sound = finite(stream) & all_finite(routed.logits)
        else:
            y, tap = self.mlp(read, edits.mlp, batch.variant, axis=axis)
            taps = {"mlp": tap}
            sound = finite(stream)
        y = self.mlp_post_norm(y) if post else y
        return (x + attended) + y, taps, jnp.stack([finite(x), sound]), cache


class LayerConstants(NamedTuple):
    """What sets the layers of a run apart besides their parameters, on a leading layer axis.

    Attributes:
      reach: as in `View`; None where no layer of the model has one.
      rope: which rotary embedding; None where the model has one only.
      layer: layer number.
    """

    reach: Int[Array, "*L"] | None
    rope: Int[Array, "*L"] | None
    layer: Int[Array, "*L"]


class Decoder(nnx.Module):
    """A decoder-only language model.

    The layers of a run of equal kind are one `Block` whose parameters have a leading layer axis, and the forward pass
    scans over them: compile time does not grow with depth.
    """

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs) -> None:
        self.embed = Embedding(config.vocab_size, config.width, rngs)
        self.runs = nnx.List([_stacked_block(config, run.kind, len(run), rngs) for run in config.runs])
        self.norm = _norm(config)
        if config.head and not config.tied_embeddings:
            self.head = nnx.Linear(config.width, config.vocab_size, use_bias=False, rngs=rngs)
        self.config = config

    def __call__(
        self,
        batch: Batch,
        rows: int,
        *,
        window: int | None,
        edits: Edits | None = None,
        reduce: Reduce | None = None,
        cache: Cache | None = None,
        axis: str | None = None,
        kernels: Kernels | None = None,
    ) -> Output:
        """Runs the model over a batch.

        Args:
          batch: the packed texts.
          rows: R, how many texts a batch of this shape can hold.
          window: attention window; at least the longest text fits `longest_text(window)`. None: the batch
            holds the next token of each text, and what the texts have read before is in the cache.
          edits: interventions, over all layers.
          axis: mesh axis over which heads, neurons and experts are cut, inside a `jax.shard_map` over it; None on one
            device.
          reduce: turns the taps of a layer into what is kept of them; None keeps nothing.
          cache: keys and values of what was read before, to which the batch's are added; None keeps none.
          kernels: how it is computed; None takes what suits this process's first device.
        """
        edits = edits or Edits()
        kernels = kernels or default_kernels()
        real = batch.row < rows
        x = self.embed(batch.token)
        if self.config.embedding_scale != 1.0:
            x = x * jnp.asarray(self.config.embedding_scale, x.dtype)
        length = batch.position + 1 if window is None else text_lengths(batch.position, batch.row, rows)
        angles = [rotary(batch.position, length, rope) for rope in self.config.ropes]
        stacked: Rotary = jax.tree.map(lambda *parts: jnp.stack(parts), *angles)
        kept: dict[str, list[Any]] = {}
        points = []
        passed = {"dense": 0, "moe": 0}
        for run, block in zip(self.config.runs, self.runs, strict=True):
            # The routed experts stay in one piece: a scan would copy those of a layer out of it, most of its weights.
            graph, routed, params = nnx.split(block, nnx.PathContains("routed"), ...)
            start = passed[run.kind]
            passed[run.kind] = start + len(run)
            mine = edits.of_kind(run.kind).rows(start, start + len(run))

            def layer(
                carry: tuple[Array, Cache | None],
                layer: tuple[Any, Edits, LayerConstants],
                run: LayerRun = run,
                graph: Any = graph,
                routed: Any = routed,
            ) -> tuple[tuple[Array, Cache | None], Any]:
                layer_params, layer_edits, own = layer
                by = angles[0] if own.rope is None else jax.tree.map(lambda part: part[own.rope], stacked)
                x, taps, sound, cache = nnx.merge(graph, routed, layer_params)(
                    carry[0], batch, by, real, layer_edits,
                    view=View(window, own.reach, own.layer), cache=carry[1], axis=axis, kernels=kernels,
                    place=own.layer - run.start,
                )  # fmt: skip
                return (x, cache), (sound, {} if reduce is None else reduce(taps))

            layers = params, mine, _constants(self.config, run)
            if len(run) == 1:
                # No loop: the compiler leaves out what nobody reads, in a capture most of the last layer's MLP.
                (x, cache), found = layer((x, cache), jax.tree.map(lambda leaf: leaf[0], layers))
                sound, statistics = jax.tree.map(lambda leaf: leaf[None], found)
            else:
                (x, cache), (sound, statistics) = jax.lax.scan(layer, (x, cache), layers)
            points.append(sound.reshape(-1, len(real)))
            for name, tree in statistics.items():
                kept.setdefault(name, []).append(tree)
        taps = {name: jax.tree.map(lambda *parts: jnp.concatenate(parts), *trees) for name, trees in kept.items()}
        return Output(self.norm(x), taps, jnp.concatenate(points), cache)

    def logits(self, hidden: Float[Array, "*S D"]) -> Float[Array, "*S V"]:
        """Logits of the next token, read off the output of the final norm."""
        logits = self.embed.attend(hidden) if self.config.tied_embeddings else self.head(hidden)
        return squash(logits, self.config.logit_cap)


def _norm(config: DecoderConfig) -> Norm:
    return Norm(config.width, config.norm_epsilon, config.norm)


def _constants(config: DecoderConfig, run: LayerRun) -> LayerConstants:
    own = config.layers[run.start : run.stop]
    everything = np.iinfo(np.int32).max
    reach = np.asarray([one.reach or everything for one in own], np.int32)
    rope = np.asarray([one.rope for one in own], np.int32)
    return LayerConstants(
        jnp.asarray(reach) if any(one.reach for one in config.layers) else None,
        jnp.asarray(rope) if len(config.ropes) > 1 else None,
        jnp.arange(run.start, run.stop, dtype=jnp.int32),
    )


def _stacked_block(config: DecoderConfig, kind: LayerKind, layers: int, rngs: nnx.Rngs) -> Block:
    @nnx.split_rngs(splits=layers)
    @nnx.vmap(in_axes=(0,), out_axes=0)
    def build(rngs: nnx.Rngs) -> Block:
        return Block(config, kind, rngs)

    return build(rngs)


@lru_cache
def _skeleton(config: DecoderConfig) -> tuple[Any, Any]:
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, nnx.Rngs(0))), nnx.Param)


def abstract_params(config: DecoderConfig) -> Params:
    """Shapes of the parameters (`jax.ShapeDtypeStruct` leaves), without making any."""
    return nnx.to_pure_dict(_skeleton(config)[1])


def bind(config: DecoderConfig, params: Params) -> Decoder:
    """Puts parameters into the decoder; meant to be called inside a jitted function.

    Args:
      config: the model.
      params: a tree like `abstract_params(config)`, with arrays as leaves.
    """
    graph, skeleton = _skeleton(config)
    state = jax.tree.map(lambda leaf: leaf, skeleton)
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)
