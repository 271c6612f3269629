"""What becomes of units: neurons at 0, at a share of their value or at other values, experts masked, zeroed or forced.

Axis legend: L layers of a group, E experts.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.targets import Units
from sparcom_jax.causal.values import Donors, Means
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.units.groups import EXPERT_GROUP, Group
from sparcom_jax.units.unit_set import UnitSet


@dataclass(frozen=True, eq=False)
class Intervention:
    """What becomes of units that are switched off.

    Attributes:
      groups: all groups of units of the model, by name.
      settings: which intervention.
      values: that neurons are set to; None where they are multiplied only.
    """

    groups: Mapping[str, Group]
    settings: AblationSettings
    values: Means | Donors | None

    @property
    def by_category(self) -> bool:
        """Whether what becomes of units depends on the category whose they are."""
        return self.values is not None and self.values.by_category

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

    def first_layer(self, units: UnitSet) -> int:
        """The first layer that is acted on, whichever category's units these are, or random ones in their place."""
        reached = {
            name: np.ones(self.groups[name].shape[0], bool) if self.settings.keep else units.layer_counts(name).any(0)
            for name in units.groups
        }
        return min(
            layer for name, hit in reached.items() for layer in np.asarray(self.groups[name].layers)[hit].tolist()
        )

    def _acting_on(self, off: Units, category: int) -> Edits:
        whole = {name: np.zeros(group.shape, bool) for name, group in self.groups.items()} | dict(off)
        values = self.values.of(category) if self.values else {}
        fields: dict[str, Any] = {}
        for name, mask in whole.items():
            if name == EXPERT_GROUP:
                fields |= self._on_experts(mask[:, None])
                continue
            scale: Any = np.where(mask, np.float32(self.settings.alpha), np.float32(1))[:, None]
            shift: Any = np.where(mask[:, None], values[name], np.float32(0)) if values else None
            fields[name] = NeuronEdit(scale, shift)
        return Edits(**fields)

    def _on_experts(self, mask: Bool[np.ndarray, "L 1 E"]) -> dict[str, Any]:
        """The field of the edits that acts on experts, as the settings say."""
        if self.settings.experts == "force":
            return {"forced": mask}
        return {"gate": np.float32(~mask)} if self.settings.experts == "zero" else {"expert": ~mask}
