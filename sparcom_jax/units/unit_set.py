"""The units of every category, whoever chose them: what ablation, editing and tuning act on.

Axis legend: C categories, L layers of a group; `*units` is the shape of a group's units, `L` first.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, Int64

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.strict_json import require_plain
from sparcom_jax.units.bits import pack
from sparcom_jax.units.groups import EXPERT_GROUP, Group, expert_group, model_groups
from sparcom_jax.units.table import show_units, units_table

if TYPE_CHECKING:
    import pandas

ORIGIN = ("selector", "size", "half", "seed")
"""What every origin says."""
BESIDE_THE_ORIGIN = ("schema_version", "name", "categories", "groups", "digest")
"""What is recorded of a unit set beside its origin, which has no field of these names."""


@dataclass(frozen=True, eq=False)
class UnitSet:
    """The units of each category, and how much of the category every unit of the model is.

    Attributes:
      categories: names of the categories, in the order of the first axis of `score` and `mask`.
      groups: the groups that units were chosen from, by name.
      score: by group, `[C, *units]`; higher is more of the category.
      mask: by group, `[C, *units]`; True for the units of the category.
      origin: where they come from, as plain JSON: `selector`, which chose them; `size`, how many it was to choose, or
        None; `half`, the ids of the instructions that it saw, None for all of the run; `seed` of its draws, or None;
        and what else decided.
      name: of a stored one, below `RUN/units`; empty for others.

    Raises:
      InputError: categories, shapes, dtypes or the origin are at fault.
    """

    categories: Sequence[str]
    groups: Mapping[str, Group]
    score: Mapping[str, Float32[np.ndarray, "..."]]
    mask: Mapping[str, Bool[np.ndarray, "..."]]
    origin: Mapping[str, Any]
    name: str = ""

    def __post_init__(self) -> None:
        where = self.title
        if not self.categories or len({*self.categories}) < len(self.categories):
            raise InputError(f"{where}: categories {list(self.categories)} must be unique, and one at least")
        if not self.groups:
            raise InputError(f"{where}: no group of units")
        for field, arrays, dtype in (("score", self.score, np.float32), ("mask", self.mask, np.bool_)):
            if arrays.keys() != self.groups.keys():
                raise InputError(f"{where}: {field} is of {', '.join(arrays)}, the groups are {', '.join(self.groups)}")
            for name, array in arrays.items():
                wanted = (len(self.categories), *self.groups[name].shape)
                if array.shape != wanted or array.dtype != dtype:
                    raise InputError(f"{where}: {field} of {name} is {array.dtype} {list(array.shape)}, "
                                     f"not {np.dtype(dtype)} {list(wanted)}")  # fmt: skip
        for name, score in self.score.items():
            if np.isnan(score).any():
                raise InputError(f"{where}: score of {name} is not a number for some units")
        _require_origin(self.origin, where)

    @property
    def title(self) -> str:
        """What messages call the units."""
        return f"units {self.name!r}" if self.name else "the units"

    @property
    def selector(self) -> str:
        """What chose the units."""
        return str(self.origin["selector"])

    @property
    def digest(self) -> str:
        """Tells one version of a unit set from another: of the origin, the scores and the masks."""
        told = {"categories": list(self.categories), "origin": dict(self.origin),
                "groups": {name: group.to_json() for name, group in self.groups.items()}}  # fmt: skip
        digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode())
        for name in sorted(self.groups):
            digest.update(np.ascontiguousarray(self.score[name]).data)
            digest.update(pack(self.mask[name]).data)
        return digest.hexdigest()

    def __repr__(self) -> str:
        return show_units(self).text()

    def _repr_html_(self) -> str:
        return show_units(self).html()

    def table(self, category: str | None = None, top: int = 0) -> "pandas.DataFrame":
        """The units as a table, the highest score of each category first.

        Args:
          category: the one that is wanted; all by default.
          top: units of each category, of neurons and of experts each, at most; 0 for all.

        Returns:
          A row of each unit of a category: `unit`, its name (`L12.N340`, `L7.S.N12`, `L7.E5.N12`, `L7.E5`), `category`,
          `group`, `layer`, the model's number, `expert` and `neuron`, missing where it has none, `rank`, from 1 among
          the category's neurons or its experts, and `score`.

        Raises:
          InputError: there is no such category, or `top` is negative.
        """
        return units_table(self, category, top)

    def record(self) -> dict[str, Any]:
        """What results say of the units that they were made with."""
        return {"name": self.name, "digest": self.digest, **self.origin}

    def layer_counts(self, group: str) -> Int64[np.ndarray, "C L"]:
        """How many units of a group each category has in each layer."""
        mask = self.mask[group]
        return np.count_nonzero(mask.reshape(*mask.shape[:2], -1), axis=2).astype(np.int64)

    def counts(self, groups: Iterable[str]) -> Int64[np.ndarray, "C"]:
        """How many units each category has in some groups together."""
        return sum((self.layer_counts(group).sum(axis=1) for group in groups), np.zeros(len(self.categories), np.int64))

    def require_units(self, groups: Iterable[str], lacks: str, advice: str) -> None:
        """Refuses a unit set in which a category has no unit in any of some groups.

        Args:
          groups: which.
          lacks: what to say before the names of such categories, for example `units 'auroc' have no neurons`.
          advice: what to say after them.

        Raises:
          InputError: there is such a category.
        """
        if empty := [name for name, n in zip(self.categories, self.counts(groups), strict=True) if not n]:
            raise InputError(f"{lacks} of {first_of(empty)}{advice}")


def require_of_model(units: UnitSet, config: DecoderConfig, where: str) -> None:
    """Refuses units that a model does not have.

    Args:
      units: the units.
      config: the model.
      where: what it is called.

    Raises:
      InputError: they are of another model.
    """
    groups = {group.name: group for group in model_groups(config)}
    if "routed" in groups:
        groups[EXPERT_GROUP] = expert_group(groups["routed"])
    for name, group in units.groups.items():
        if groups.get(name) != group:
            told = groups[name].to_json() if name in groups else "no such group"
            raise InputError(f"{where}: {units.title} are of another model: {name} is {group.to_json()}, here {told}")


def _require_origin(origin: Mapping[str, Any], where: str) -> None:
    if missing := [field for field in ORIGIN if field not in origin]:
        raise InputError(f"{where}: the origin has no field {missing[0]!r}")
    if foreign := [field for field in BESIDE_THE_ORIGIN if field in origin]:
        raise InputError(f"{where}: the origin has a field {foreign[0]!r}, which is not its own")
    if not isinstance(origin["selector"], str) or not origin["selector"]:
        raise InputError(f"{where}: field 'selector' of the origin must be a non-empty string")
    try:
        plain = json.loads(json.dumps(dict(origin)))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: the origin is not plain JSON: {error}") from error
    require_plain(plain, where)
    if plain != dict(origin):
        raise InputError(f"{where}: the origin is not plain JSON: it is read back as another")
