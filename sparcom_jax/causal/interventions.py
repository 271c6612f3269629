"""What becomes of units that are switched off: neurons at 0, at a share of their value or at their mean.

Axis legend: C categories, S texts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8

from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.targets import Units
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.units.groups import EXPERT_GROUP, Group


@dataclass(frozen=True, eq=False)
class Means:
    """Sums of the inputs of `down_proj` over the tokens of each category, and how many tokens there were.

    Attributes:
      sums: by group; of routed experts over the tokens that were routed to them.
      tokens: by group, of the same tokens; with an axis of 1 for what neurons have in common.
    """

    sums: Mapping[str, Float64[np.ndarray, "C ..."]]
    tokens: Mapping[str, Float64[np.ndarray, "C ..."]]

    def of(self, categories: Bool[np.ndarray, "C"]) -> dict[str, Float32[np.ndarray, "..."]]:
        """Means over the tokens of some categories together; 0 where there were none."""
        return {
            group: (sums[categories].sum(axis=0) / np.maximum(self.tokens[group][categories].sum(axis=0), 1)).astype(
                np.float32
            )
            for group, sums in self.sums.items()
        }


def measure_means(
    model: PlacedModel,
    texts: TokenizedSet,
    category: UInt8[np.ndarray, "S"],
    categories: int,
    names: Sequence[str],
    batch_tokens: int,
) -> Means:
    """Means of the inputs of `down_proj` over all tokens of some texts, those of their responses among them.

    Args:
      model: the model on its devices.
      texts: which texts; all their tokens are taken.
      category: of each text.
      categories: how many there are.
      names: what the texts are called.
      batch_tokens: token slots of a batch, per device.

    Raises:
      InputError: an activation is not finite.
    """
    whole = TokenizedSet(texts.ids, np.zeros_like(texts.first_counted), texts.lengths, {})
    (bins,) = make_plan(whole.lengths, len(whole.ids), batch_tokens).blocks
    kept = Kept(convention="product", values=True)
    step = partial(capture_step, model.config, kept=kept, placement=model.placement)
    fed = np.bincount(category, whole.lengths, categories)
    sums: dict[str, Any] = {}
    tokens: dict[str, Any] = {}
    for found in finite_sweep(model, feeds(whole, bins, model.placement.data, whole.counting), step, names):
        for group, values in found.values.items():
            total = values["value_sum"]  # [L, R, ...]
            chosen = values["selected_count"][..., None] if group == "routed" else None
            if group not in sums:
                sums[group] = np.zeros((categories, total.shape[0], *total.shape[2:]))
                ones = (1,) * (total.ndim - 1)
                shape = (chosen.shape[0], *chosen.shape[2:]) if chosen is not None else ones
                tokens[group] = np.zeros((categories, *shape)) + (0 if chosen is not None else fed.reshape(-1, *ones))
            for row, text in enumerate(found.texts):
                sums[group][category[text]] += total[:, row]
                if chosen is not None:
                    tokens[group][category[text]] += chosen[:, row]
    return Means(sums, tokens)


@dataclass(frozen=True, eq=False)
class Intervention:
    """What becomes of units that are switched off.

    Attributes:
      groups: all groups of units of the model, by name.
      settings: which intervention.
      means: of the neurons, where these take the place of values.
    """

    groups: Mapping[str, Group]
    settings: AblationSettings
    means: Means | None

    @property
    def by_category(self) -> bool:
        """Whether what becomes of units depends on the category whose they are."""
        return self.settings.how == "mean_others"

    def edits(self, units: Units, category: int = 0) -> Edits:
        """Edits that act on the units given, or with `keep` on all others of the same groups; the rest stays as it is.

        Args:
          units: by group.
          category: whose units they are, or take the place of.
        """
        off = {group: ~mask for group, mask in units.items()} if self.settings.keep else units
        return self._acting_on(off, category)

    def all_off(self, groups: Iterable[str], category: int) -> Edits:
        """Edits that act on all units of some groups.

        Args:
          groups: which.
          category: whose units are kept in what this is compared with.
        """
        return self._acting_on({name: np.ones(self.groups[name].shape, bool) for name in groups}, category)

    def _acting_on(self, off: Units, category: int) -> Edits:
        whole = {name: np.zeros(group.shape, bool) for name, group in self.groups.items()} | dict(off)
        if self.settings.how == "zero":
            return Edits.switch_off(whole)
        values: dict[str, np.ndarray] = {}
        if self.means is not None:
            others = np.arange(len(next(iter(self.means.sums.values())))) != category
            values = self.means.of(others if self.settings.how == "mean_others" else np.ones_like(others))
        fields: dict[str, Any] = {}
        for name, mask in whole.items():
            if name == EXPERT_GROUP:
                fields[name] = ~mask[:, None]
                continue
            scale: Any = np.where(mask, np.float32(self.settings.alpha), np.float32(1))[:, None]
            shift: Any = np.where(mask, values[name], np.float32(0))[:, None] if values else None
            fields[name] = NeuronEdit(scale, shift)
        return Edits(**fields)
