"""What `--train` names, in a model: the units of a set, experts, layers, all, or a low rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from sparcom_jax.causal.controls import frequency_bins, random_units
from sparcom_jax.causal.texts import require_model_of
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.errors import InputError
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.store.run import Run
from sparcom_jax.store.units import open_units
from sparcom_jax.tune.settings import OF_UNITS, Train, TuneSettings
from sparcom_jax.tune.trained import Trained, train_all, train_layers, train_low_rank, train_slices
from sparcom_jax.units.file import read_safetensors
from sparcom_jax.units.groups import TARGETS
from sparcom_jax.units.parameters import NEURON_AXIS, unit_slices
from sparcom_jax.units.unit_set import UnitSet, require_of_model


@dataclass(frozen=True, eq=False)
class Choice:
    """What is trained, and where it comes from.

    Attributes:
      trained: it.
      units: those that are trained, as a set of one category; None where no units were named.
      chose: ids of the instructions that chose them, and their texts where a run has them; None where any may have.
      told: what the summary says of it.
    """

    trained: Trained
    units: UnitSet | None
    chose: frozenset[str] | None
    told: dict[str, Any]

    def chosen_by(self, rows: Sequence[Mapping[str, Any]]) -> bool:
        """Whether any of these instructions, or one of the same id or text, may have chosen the units."""
        return any(self.chose is None or {row["id"], row["instruction"]} & self.chose for row in rows)


def choose(train: Train, model: ModelDir, run: Run | None, settings: TuneSettings) -> Choice:
    """Finds what is to be trained.

    Args:
      train: what was named.
      model: the model.
      run: where the units are stored; None where they are a file, or there are none.
      settings: LoRA's alpha, and the seed of random units.

    Raises:
      InputError: there are no such units, or they are of another model; there is no such layer.
    """
    config = model.config
    if train.kind not in OF_UNITS:
        if run is not None:
            raise InputError(f"--run has no effect with --train={train.kind}, which names no units; leave it out")
        if train.kind == "layers" and (beyond := [one for one in train.layers if one >= config.num_layers]):
            raise InputError(f"{model.path}: has {config.num_layers} layers, from 0; there is no layer {beyond[0]}")
        made = {
            "all": lambda: train_all(config),
            "layers": lambda: train_layers(config, train.layers),
            "lora": lambda: train_low_rank(config, train.rank, settings.lora_alpha),
        }[train.kind]()
        return Choice(
            made, None, frozenset(), {"kind": train.kind, "name": train.text, "run": "", "digest": model.digest}
        )
    units = _units(train, model, run)
    if train.category not in units.categories:
        raise InputError(
            f"{units.title} have no category {train.category!r}; they are of {', '.join(units.categories)}"
        )
    at = list(units.categories).index(train.category)
    target = "experts" if train.kind == "experts" else "neurons"
    masks = {name: units.mask[name][at] for name in TARGETS[target] if name in units.groups}
    if not any(mask.any() for mask in masks.values()):
        raise InputError(f"{units.title} have no {target} of {train.category}, so there is nothing to train")
    if train.kind == "random":
        masks = _random(masks, run, settings)
    slices = [
        one
        for name, mask in masks.items()
        for layer, of_layer in zip(units.groups[name].layers, mask, strict=True)
        for one in unit_slices(config, name, layer, np.argwhere(of_layer))
        if one.role in (*NEURON_AXIS, "down_bias")
    ]
    count = int(sum(np.count_nonzero(mask) for mask in masks.values()))
    mine = UnitSet(
        [train.category],
        {name: units.groups[name] for name in masks},
        {name: mask[None].astype(np.float32) for name, mask in masks.items()},
        {name: mask[None] for name, mask in masks.items()},
        {"selector": train.kind, "size": count, "half": units.origin["half"], "seed": settings.seed},
    )
    told = {"kind": train.kind, "name": train.text, "run": "" if run is None else run.address,
            "digest": units.digest, "selector": units.selector, "category": train.category, target: count}  # fmt: skip
    return Choice(train_slices(config, slices), mine, _chose(units, run), told)


def _chose(units: UnitSet, run: Run | None) -> frozenset[str] | None:
    half = None if units.origin["half"] is None else frozenset(units.origin["half"])
    if run is None:
        return half
    chose = [row for row in run.instructions if half is None or row["id"] in half]
    return frozenset(value for row in chose for value in (row["id"], row["instruction"]))


def _units(train: Train, model: ModelDir, run: Run | None) -> UnitSet:
    if run is not None:
        require_model_of(run, model)
        units = open_units(run, train.name)
    elif train.kind == "random":
        raise InputError("--train=random needs --run, for how often the model's units are active")
    elif not Path(train.name).is_file():
        raise InputError(f"{train.name}: no such file; without --run, units are a safetensors file of units")
    else:
        units = read_safetensors(train.name)
    require_of_model(units, model.config, str(model.path))
    return units


def _random(masks: dict[str, Bool[np.ndarray, "..."]], run: Run | None, settings: TuneSettings
            ) -> dict[str, Bool[np.ndarray, "..."]]:  # fmt: skip
    """As many others of the same layers and deciles of frequency; those of the set may be among them."""
    assert run is not None
    bins = frequency_bins(mean_rates(run, {name: run.groups[name] for name in masks}))
    (drawn,) = random_units(masks, bins, 1, np.random.default_rng([settings.seed, 3]))
    return dict(drawn)
