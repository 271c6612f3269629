"""The one description of a decoder that every model family is translated into."""

from dataclasses import dataclass, replace
from typing import Literal

from sparcom_jax.models.segments import Location, Segment, boundary, locate, segments_of

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
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
class GroupedQuery:
    """Multi-head, grouped-query or multi-query attention; its sizes are the model's.

    Attributes:
      sliding_window: a token attends to itself and the `sliding_window - 1` tokens before it; 0: to all before it.
      rope: which of the config's rotary embeddings.
    """

    sliding_window: int = 0
    rope: int = 0


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention (DeepSeek-AI 2024): keys and values are read off a small latent vector.

    Attributes:
      query_rank: size of the latent of the queries; 0 where they are projected directly.
      rank: size of the latent of keys and values.
      plain_size: dimensions of a query or key without positions.
      value_size: dimensions of a value.
      sliding_window: as in `GroupedQuery`.
      rope: as in `GroupedQuery`.
    """

    query_rank: int
    rank: int
    plain_size: int
    value_size: int
    sliding_window: int = 0
    rope: int = 0


Mixer = GroupedQuery | Latent
"""What a layer reads other tokens with."""


@dataclass(frozen=True)
class DenseMLP:
    """An MLP that every token passes.

    Attributes:
      width: neurons F.
    """

    width: int


@dataclass(frozen=True)
class Experts:
    """Routed experts, of which each token passes a few, and a shared expert where there is one.

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
    """One layer.

    Attributes:
      mixer: what it reads other tokens with.
      mlp: what each token passes then.
    """

    mixer: Mixer
    mlp: DenseMLP | Experts

    @property
    def routed(self) -> bool:
        """Whether it has routed experts."""
        return isinstance(self.mlp, Experts)

    @property
    def structure(self) -> "Layer":
        """What it has in common with the layers that are compiled alike."""
        return replace(self, mixer=replace(self.mixer, sliding_window=0, rope=0))


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
      activation: activation function of every MLP.
      norm: which norm. RMSNorm (`rms`), with its scale applied in float32 (`rms_float32`), or with a scale that is
        counted from one (`rms_plus_one`, in float32); or LayerNorm with a bias (`layer`).
      norm_epsilon: added to the mean square, or to the variance.
      ropes: rotary position embeddings.
      max_positions: longest text that the model is made for.
      tied_embeddings: whether logits are read off with the embedding matrix.
      head: whether the model has logits at all; embedding models and classifiers are saved without.
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
    activation: Activation
    norm: NormKind
    norm_epsilon: float
    ropes: tuple[Rope, ...]
    max_positions: int
    tied_embeddings: bool
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
    def segments(self) -> tuple[Segment, ...]:
        """How the layers are compiled."""
        return segments_of(tuple(layer.structure for layer in self.layers))

    def location(self, layer: int) -> Location:
        """Where the parameters of a layer lie in memory."""
        return locate(self.segments, layer)

    def boundary(self, layer: int) -> int:
        """The last layer, of a given one and those before, that a forward pass can begin at."""
        return boundary(self.segments, layer)

    @property
    def mixers(self) -> tuple[Mixer, ...]:
        """The kinds of mixer, in the order in which they first occur."""
        return tuple(dict.fromkeys(layer.structure.mixer for layer in self.layers))

    @property
    def dense_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with an MLP that every token passes."""
        return tuple(number for number, layer in enumerate(self.layers) if not layer.routed)

    @property
    def moe_layers(self) -> tuple[int, ...]:
        """Numbers of the layers with routed experts."""
        return tuple(number for number, layer in enumerate(self.layers) if layer.routed)

    @property
    def mlp_width(self) -> int:
        """Neurons F of a dense MLP; 0 where there is none."""
        return next((layer.mlp.width for layer in self.layers if isinstance(layer.mlp, DenseMLP)), 0)

    @property
    def experts(self) -> Experts | None:
        """The routed experts; None where all layers are dense."""
        return next((layer.mlp for layer in self.layers if isinstance(layer.mlp, Experts)), None)
