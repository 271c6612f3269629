"""Unit sets of tiny models, and what an edit of them comes to in the forward pass."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from sparcom_jax.batches.packing import fill
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.unit_set import UnitSet
from tests.parameters import ONE, groups_of, some_units

LENGTH = 60
SHAPE = Shape(128, 128, 2)
TEXT = np.random.default_rng(2).integers(3, 200, LENGTH).astype(np.int32)
ORIGIN = {"selector": "made up", "size": None, "half": None, "seed": None}


def unit_set(model: ModelDir) -> UnitSet:
    """Of two categories, the second has random neurons of every layer and an expert of each."""
    groups = groups_of(model.config)
    mask = {name: np.stack([np.zeros_like(one), one]) for name, one in some_units(groups).items()}
    return UnitSet(["A", "B"], groups, {name: one.astype(np.float32) for name, one in mask.items()}, mask, ORIGIN)


def edits_of(model: ModelDir, units: UnitSet, settings: EditSettings | None) -> Edits:
    """What an edit says, done in the forward pass; every field is there, so that all share one compilation."""
    off = {name: one[1] for name, one in units.mask.items()}
    factor = {name: np.ones(one.shape, np.float32) for name, one in off.items()}
    if settings and settings.experts != "mask":
        for name in TARGETS[settings.target]:
            if name in off:
                factor[name][off[name]] = settings.factor
    fields: dict[str, Any] = {name: NeuronEdit(one[:, None]) for name, one in factor.items() if name != EXPERT_GROUP}
    if EXPERT_GROUP in off:
        masked = settings is not None and settings.experts == "mask"
        expert = (~off[EXPERT_GROUP] if masked else np.ones_like(off[EXPERT_GROUP]))[:, None]
        fields |= {"expert": expert, "gate": factor[EXPERT_GROUP][:, None]}
    return Edits(**fields)


def forward_of(model: ModelDir) -> Callable[[Edits], np.ndarray]:
    """Logits of the text under edits."""
    params, batch = model.restore(ONE, "float32"), fill(SHAPE, [TEXT], [np.ones(LENGTH, bool)])

    @jax.jit
    def run(params: Any, batch: Any, edits: Edits) -> Any:
        decoder = bind(model.config, params)
        return decoder.logits(decoder(batch, SHAPE, edits=edits).hidden)[:LENGTH]

    return lambda edits: np.asarray(run(params, batch, edits))


def scored(model: ModelDir) -> UnitSet:
    groups = groups_of(model.config)
    random = np.random.default_rng(5)
    score = {name: random.random((2, *group.shape)).astype(np.float32) for name, group in groups.items()}
    return UnitSet(["A", "B"], groups, score, {name: one > 0.5 for name, one in score.items()}, ORIGIN)


def removed(units: UnitSet, target: str) -> dict[str, np.ndarray]:
    """The unit of the highest score of every layer, which `prune=1` takes out."""
    return {group: highest(units.score[group][1], 1) for group in TARGETS[target] if group in units.groups}


def highest(score: np.ndarray, count: int) -> np.ndarray:
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.argsort(-score, axis=-1)[..., :count], True, axis=-1)
    return mask
