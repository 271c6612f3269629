"""The one description of a decoder that every model family is translated into."""

import itertools
from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
LayerKind = Literal["dense", "moe"]
RopeKind = Literal["default", "linear", "dynamic", "yarn", "longrope", "llama3"]
NormKind = Literal["rms", "rms_float32", "rms_plus_one", "layer"]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding.

    Attributes:
      kind: `default`; `linear` (positions divided by `factor`); `dynamic` (wavelengths grow with the length of a text
        beyond `original_positions`); `yarn` and `llama3` (low frequencies divided by `factor`, high ones kept, a
        smooth transition between); `longrope` (each frequency divided by its own factor).
      theta: base of the geometric series of wavelengths.
      size: how many of the dimensions of a head are turned, the first ones.
      factor: how much the context is stretched.
      original_positions: context length before stretching.
      low: where the transition begins and
      high: where it ends, in turns within the original context (`llama3`: low_freq_factor, high_freq_factor; `yarn`:
        beta_slow, beta_fast).
      whole_dimensions: `yarn`: the transition begins and ends at whole dimensions.
      short_factors: `longrope`: for texts within the original context.
      long_factors: `longrope`: for longer texts.
      scale: what cosines and sines are multiplied with.
    """

    kind: RopeKind
    theta: float
    size: int
    factor: float = 1.0
    original_positions: int = 0
    low: float = 1.0
    high: float = 4.0
    whole_dimensions: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    scale: float = 1.0


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-AI 2024): keys and values are read off a small latent vector.

    Attributes:
      query_rank: size of the latent of the queries; 0 where they are projected directly.
      rank: size of the latent of keys and values.
      plain_size: dimensions of a query or key without positions.
      value_size: dimensions of a value.
    """

    query_rank: int
    rank: int
    plain_size: int
    value_size: int


@dataclass(frozen=True)
class Experts:
    """The Mixture-of-Experts layers of a model.

    Attributes:
      count: routed experts E of a layer.
      per_token: experts K that a token is routed to.
      width: neurons F of a routed expert.
      normalize: whether the K routing weights of a token are scaled to sum to 1.
      scale: what the routing weights are multiplied with at last.
      groups: the experts form so many groups,
      groups_per_token: of which a token may use the best so many.
      bias: whether router and experts have biases.
      clamp: gpt-oss's gate: both projections are clamped at `limit`, the gate is x sigmoid(slope x), and the other
        factor is one more than its projection; None for an ordinary gate.
      shared_width: neurons of the shared expert; 0 where there is none.
      shared_gated: whether the shared expert's output passes a sigmoid gate.
    """

    count: int
    per_token: int
    width: int
    normalize: bool
    scale: float = 1.0
    groups: int = 1
    groups_per_token: int = 1
    bias: bool = False
    clamp: "Clamp | None" = None
    shared_width: int = 0
    shared_gated: bool = False


@dataclass(frozen=True)
class Clamp:
    """Constants of GPT-OSS's gate."""

    limit: float
    slope: float


@dataclass(frozen=True)
class Layer:
    """What sets one layer apart.

    Attributes:
      kind: `dense` or `moe`.
      reach: a token attends to itself and the `reach - 1` tokens before it; 0: to all before it.
      rope: which of the config's rotary embeddings.
    """

    kind: LayerKind
    reach: int = 0
    rope: int = 0


@dataclass(frozen=True)
class DecoderConfig:
    """Everything the decoder's forward pass depends on.

    Attributes:
      family: model type as Hugging Face spells it.
      vocab_size: rows of the embedding.
      width: model width D.
      layers: the layers.
      heads: query heads N.
      kv_heads: key and value heads G; N is a multiple of it.
      head_size: H of queries and keys; N * H need not be D.
      mlp_width: neurons F of a dense MLP.
      activation: activation function of every MLP.
      norm: which norm. RMSNorm (`rms`), with its scale applied in float32 (`rms_float32`), or with a scale that is
        counted from one (`rms_plus_one`, in float32); or LayerNorm with a bias (`layer`).
      norm_epsilon: added to the mean square, or to the variance.
      ropes: rotary position embeddings.
      max_positions: longest text that the model is made for.
      tied_embeddings: whether logits are read off with the embedding matrix.
      head: whether the model has logits at all; embedding models and classifiers are saved without.
      experts: the MoE layers' description; None where all layers are dense.
      latent: latent attention; None for ordinary attention.
      qkv_bias: whether the query, key and value projections have a bias.
      output_bias: whether the attention output projection has one.
      mlp_bias: whether the dense MLP's projections have one.
      gated: whether dense MLPs multiply the activation with a second projection.
      pre_norm: whether attention and MLP read the residual stream through a norm.
      post_norm: whether what they add to it passes a norm.
      parallel: whether the MLP reads what the attention reads, not what it leaves.
      qk_norm: queries and keys pass a norm, per head or over all heads.
      qkv_clip: queries, keys and values are clipped to +-this; 0: they are not.
      score_scale: what the products of queries and keys are multiplied with.
      score_cap: scores are squashed into +-this by a tanh; 0: they are not.
      sinks: whether each head may attend to nothing, with a learnt score.
      embedding_scale: what embeddings are multiplied with.
      logit_cap: logits are squashed into +-this by a tanh; 0: they are not.
    """

    family: str
    vocab_size: int
    width: int
    layers: tuple[Layer, ...]
    heads: int
    kv_heads: int
    head_size: int
    mlp_width: int
    activation: Activation
    norm: NormKind
    norm_epsilon: float
    ropes: tuple[Rope, ...]
    max_positions: int
    tied_embeddings: bool
    experts: Experts | None = None
    latent: Latent | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    gated: bool = True
    pre_norm: bool = True
    post_norm: bool = False
    parallel: bool = False
    qk_norm: Literal["none", "head", "all"] = "none"
    qkv_clip: float = 0.0
    score_scale: float = 1.0
    score_cap: float = 0.0
    sinks: bool = False
    embedding_scale: float = 1.0
    logit_cap: float = 0.0
    head: bool = True

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.layers)

    @property
    def runs(self) -> tuple["LayerRun", ...]:
        """The layers as runs of equal kind: the forward pass scans over the layers of a run.

        The last layer is a run of its own, because a capture needs only a part of it.
        """
        last = self.num_layers - 1
        kinds = [(one.kind, layer == last) for layer, one in enumerate(self.layers)]
        runs = []
        start = 0
        for (kind, _), members in itertools.groupby(kinds):
            stop = start + len(list(members))
            runs.append(LayerRun(kind, start, stop))
            start = stop
        return tuple(runs)

    def layers_of(self, kind: LayerKind) -> tuple[int, ...]:
        """Layer numbers of one kind."""
        return tuple(layer for layer, one in enumerate(self.layers) if one.kind == kind)


@dataclass(frozen=True)
class LayerRun:
    """Consecutive layers `start <= l < stop` of one kind; their parameters are stacked on a leading layer axis."""

    kind: LayerKind
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start
