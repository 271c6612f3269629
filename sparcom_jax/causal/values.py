"""What takes the place of neurons: their means, or the values that they have at tokens of other instructions.

Axis legend: C categories, S texts, L layers of a group, V values that take turns, N tokens drawn of a
category.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int32, Int64, UInt8

from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.progress import progress

DONORS = 16
"""So many values of a neuron take turns at least, as many of each other category."""

Values = Mapping[str, Float32[np.ndarray, "L V ..."]]
"""By group, what its neurons are set to."""


@dataclass(frozen=True, eq=False)
class Means:
    """Sums of the inputs of `down_proj` over the tokens of each category, and how many tokens there were.

    Attributes:
      sums: by group; of routed experts over the tokens that were routed to them.
      tokens: by group, of the same tokens; with an axis of 1 for what neurons have in common.
      others: whether a category's own tokens are left out of the means that take the place of its units.
    """

    sums: Mapping[str, Float64[np.ndarray, "C L ..."]]
    tokens: Mapping[str, Float64[np.ndarray, "C #L ..."]]
    others: bool = False

    @property
    def by_category(self) -> bool:
        """Whether the values depend on the category."""
        return self.others

    @property
    def variants(self) -> int:
        """V."""
        return 1

    def of(self, category: int) -> Values:
        """The means that take the place of a category's units; 0 where there were no tokens."""
        left_out = [category] if self.others else []
        made = {}
        for group, sums in self.sums.items():
            total, tokens = (np.delete(one, left_out, axis=0).sum(axis=0) for one in (sums, self.tokens[group]))
            made[group] = (total / np.maximum(tokens, 1)).astype(np.float32)[:, None]
        return made


@dataclass(frozen=True, eq=False)
class Donors:
    """Inputs of `down_proj` at tokens that were drawn of each category.

    Attributes:
      values: by group, `[C, L, V / (C - 1), ...]`; of routed experts at tokens that were routed to them, 0 where none
        of those drawn was.
    """

    values: Mapping[str, Float32[np.ndarray, "C L _ ..."]]

    by_category = True
    """The values depend on the category."""

    @property
    def variants(self) -> int:
        """V."""
        one = next(iter(self.values.values()))
        return (one.shape[0] - 1) * one.shape[2]

    def of(self, category: int) -> Values:
        """The values that take the place of a category's units, those of all others one after another."""
        return {group: np.concatenate([*np.delete(values, category, axis=0)], axis=1)
                for group, values in self.values.items()}  # fmt: skip


def donor_of_slots(seed: int, row: int, length: int, donors: int) -> Int32[np.ndarray, "_"]:
    """Which value each token of a text takes: drawn for each position, whatever batch the text is in.

    Args:
      seed: of the draws.
      row: of the text in the run.
      length: its tokens.
      donors: V, how many values there are.
    """
    return np.random.default_rng([seed, 3, row]).integers(donors, size=length, dtype=np.int32)


def draw_tokens(
    lengths: Int32[np.ndarray, "S"], category: UInt8[np.ndarray, "S"], categories: int, count: int, seed: int
) -> Int64[np.ndarray, "C N 2"]:
    """Tokens of each category: text and position, the texts in an order that is drawn, each before any comes again.

    Args:
      lengths: tokens of each text.
      category: of each text; every category has one.
      categories: how many there are.
      count: N.
      seed: of the draws.
    """
    random = np.random.default_rng([seed, 2])
    drawn = np.empty((categories, count, 2), np.int64)
    for number, of in enumerate(drawn):
        of[:, 0] = np.resize(random.permutation(np.flatnonzero(category == number)), count)
        of[:, 1] = random.integers(lengths[of[:, 0]])
    return drawn


def measure_donors(
    model: PlacedModel,
    texts: TokenizedSet,
    category: UInt8[np.ndarray, "S"],
    categories: int,
    names: Sequence[str],
    batch_tokens: int,
    seed: int,
) -> Donors:
    """The inputs of `down_proj` at tokens that are drawn: as many of each category, over all tokens of its texts.

    A routed neuron needs a token that its expert gets, so more are drawn where there are many experts. What is held at
    once is the values that are kept, and the statistics of a batch.

    Args:
      model: the model on its devices.
      texts: which texts.
      category: of each text; every category has one, and there are two at least.
      categories: how many there are.
      names: what the texts are called.
      batch_tokens: token slots of a batch, per device.
      seed: of the draws.

    Raises:
      InputError: an activation is not finite.
    """
    kept, experts = -(-DONORS // (categories - 1)), model.config.experts
    count = kept * (-(-experts.count // experts.per_token) if experts else 1)
    drawn = draw_tokens(texts.lengths, category, categories, count, seed)
    text, position = drawn.reshape(-1, 2).T.astype(np.int32)
    alone = TokenizedSet([texts.ids[one] for one in text], position, position + 1, {})
    found: dict[str, Any] = {}
    rank: dict[str, Any] = {}
    for number, of_text in _statistics(model, alone, [names[one] for one in text], batch_tokens):
        of = number // count
        for group, (total, tokens) in of_text.items():
            if group not in found:
                found[group] = np.zeros((categories, len(total), kept, *total.shape[1:]), np.float32)
                rank[group] = np.full((categories, *tokens.shape, kept), len(text))
            # Batches come in any order: what stays is the first tokens that were drawn, whichever comes first.
            last = rank[group][of].argmax(axis=-1)
            layer, *expert = np.nonzero((tokens > 0) & (number < rank[group][of].max(axis=-1)))
            slot = last[(layer, *expert)]
            found[group][of][(layer, slot, *expert)] = total[(layer, *expert)]
            rank[group][of][(layer, *expert, slot)] = number
    return Donors({group: _in_order(values, rank[group], len(text)) for group, values in found.items()})


def _in_order(values: np.ndarray, rank: np.ndarray, unused: int) -> Float32[np.ndarray, "C L _ ..."]:
    """Values by rank; where some are unused, the others come again."""
    used = np.maximum((rank < unused).sum(axis=-1, keepdims=True), 1)
    order = np.take_along_axis(rank.argsort(axis=-1), np.arange(rank.shape[-1]) % used, axis=-1)
    return np.take_along_axis(values, np.moveaxis(order, -1, 2)[..., None], axis=2)


def measure_means(
    model: PlacedModel,
    texts: TokenizedSet,
    category: UInt8[np.ndarray, "S"],
    categories: int,
    names: Sequence[str],
    batch_tokens: int,
    *,
    others: bool,
) -> Means:
    """Means of the inputs of `down_proj` over all tokens of some texts, those of their responses among them.

    Args:
      model: the model on its devices.
      texts: which texts; all their tokens are taken.
      category: of each text.
      categories: how many there are.
      names: what the texts are called.
      batch_tokens: token slots of a batch, per device.
      others: as in `Means`.

    Raises:
      InputError: an activation is not finite.
    """
    whole = TokenizedSet(texts.ids, np.zeros_like(texts.first_counted), texts.lengths, {})
    sums: dict[str, Any] = {}
    counts: dict[str, Any] = {}
    for number, of_text in _statistics(model, whole, names, batch_tokens):
        for group, (total, tokens) in of_text.items():
            if group not in sums:
                sums[group] = np.zeros((categories, *total.shape))
                counts[group] = np.zeros((categories, *tokens.shape, 1))
            sums[group][category[number]] += total
            counts[group][category[number]] += tokens[..., None]
    return Means(sums, counts, others)


def _statistics(
    model: PlacedModel, texts: TokenizedSet, names: Sequence[str], batch_tokens: int
) -> Iterator[tuple[int, dict[str, tuple[np.ndarray, np.ndarray]]]]:
    """Of each text its number, and by group the sums over its counted tokens `[L, ...]`, and how many there were.

    These are `[L]`, for routed neurons `[L, E]` with the tokens that are routed to the expert.
    """
    (bins,) = make_plan(texts.lengths, len(texts.ids), batch_tokens).blocks
    step = partial(capture_step, model.config, kept=Kept("product", values=True), placement=model.placement)
    with progress("values of neurons", len(names), "texts") as bar:
        for found in finite_sweep(model, feeds(texts, bins, model.placement.data, texts.counting), step, names):
            for row, number in enumerate(found.texts):
                of_text = {}
                for group, values in found.values.items():
                    total = values["value_sum"][:, row]
                    one = np.full(len(total), texts.counted[number])
                    of_text[group] = total, values["selected_count"][:, row] if group == "routed" else one
                yield number, of_text
            bar.advance(len(found.texts))
