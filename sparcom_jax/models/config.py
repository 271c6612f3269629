"""The one description of a decoder that every model family is translated into."""

import itertools
from dataclasses import dataclass
from typing import Literal

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
LayerKind = Literal["dense", "moe"]


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding.

    Attributes:
      kind: `default`; `linear` (positions divided by `factor`); `llama3` (low frequencies divided by `factor`, high
        ones kept, a smooth transition between).
      theta: base of the geometric series of wavelengths.
      factor: how much the context is stretched.
      low_frequency_factor: `llama3`: wavelengths above `original_positions / low_frequency_factor` are stretched whole.
      high_frequency_factor: `llama3`: wavelengths below `original_positions / high_frequency_factor` are kept.
      original_positions: `llama3`: context length before stretching.
    """

    kind: Literal["default", "linear", "llama3"]
    theta: float
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 4.0
    original_positions: int = 0


@dataclass(frozen=True)
class Experts:
    """The Mixture-of-Experts layers of a model.

    Attributes:
      count: routed experts E of a layer.
      per_token: experts K that a token is routed to.
      width: neurons F of a routed expert.
      shared_width: neurons of the shared expert; 0 where there is none.
      normalize: whether the K routing weights of a token are scaled to sum to 1.
    """

    count: int
    per_token: int
    width: int
    shared_width: int
    normalize: bool


@dataclass(frozen=True)
class DecoderConfig:
    """Everything the decoder's forward pass depends on.

    Attributes:
      family: model type as Hugging Face spells it.
      vocab_size: rows of the embedding.
      width: model width D.
      heads: query heads N.
      kv_heads: key and value heads G; N is a multiple of it.
      head_size: H; N * H need not be D.
      layer_kinds: `dense` or `moe` for each layer.
      mlp_width: neurons F of a dense MLP.
      experts: the MoE layers' description; None where all layers are dense.
      activation: activation function of every MLP.
      norm_epsilon: added to the mean square in RMSNorm.
      rope: rotary position embedding.
      max_positions: longest text that the model is made for.
      qkv_bias: whether the query, key and value projections have a bias.
      output_bias: whether the attention output projection has one.
      mlp_bias: whether the dense MLP's three projections have one.
      tied_embeddings: whether logits are read off with the embedding matrix.
    """

    family: str
    vocab_size: int
    width: int
    heads: int
    kv_heads: int
    head_size: int
    layer_kinds: tuple[LayerKind, ...]
    mlp_width: int
    experts: Experts | None
    activation: Activation
    norm_epsilon: float
    rope: Rope
    max_positions: int
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    tied_embeddings: bool

    @property
    def num_layers(self) -> int:
        """Number of layers L."""
        return len(self.layer_kinds)

    @property
    def runs(self) -> tuple["LayerRun", ...]:
        """The layers as runs of equal kind: the forward pass scans over the layers of a run.

        The last layer is a run of its own, because a capture needs only a part of it.
        """
        last = self.num_layers - 1
        kinds = [(kind, layer == last) for layer, kind in enumerate(self.layer_kinds)]
        runs = []
        start = 0
        for (kind, _), members in itertools.groupby(kinds):
            stop = start + len(list(members))
            runs.append(LayerRun(kind, start, stop))
            start = stop
        return tuple(runs)

    def layers_of(self, kind: LayerKind) -> tuple[int, ...]:
        """Layer numbers of one kind."""
        return tuple(layer for layer, this in enumerate(self.layer_kinds) if this == kind)


@dataclass(frozen=True)
class LayerRun:
    """Consecutive layers `start <= l < stop` of one kind; their parameters are stacked on a leading layer axis."""

    kind: LayerKind
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start
