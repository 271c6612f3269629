"""What each selector says of the units of a run: scores, which units may be chosen, and chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy.special import ndtr, stdtr

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.select.attribution import over_others
from sparcom_jax.select.auroc import NEUTRAL, auroc
from sparcom_jax.select.average_precision import average_precision
from sparcom_jax.select.cores import core, general, unique
from sparcom_jax.select.counts import Kept, Measure, measure_units
from sparcom_jax.select.difference import difference
from sparcom_jax.select.experts import by_layers, esft, mean_of_instructions, reap, risk_difference
from sparcom_jax.select.lape import activation_probability, lape
from sparcom_jax.select.sample import Sample
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.attribution import open_attribution
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import open_sets
from sparcom_jax.units.groups import EXPERT_GROUP

MEASURES: dict[str, Measure] = {
    "auroc": auroc,
    "average_precision": average_precision,
    "difference": difference,
    "lape": activation_probability,
}
"""By selector, what it takes from the counts of a unit."""
CORES = {"core": core, "unique": unique, "general": general}
LAYER_SHARE = {"esft_gate": 0.1, "esft_token": 0.2}
ROUTING = (*LAYER_SHARE, "risk_difference", "reap")

ByGroup = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Scored:
    """What a selector says of every unit; each field by group.

    Attributes:
      score: higher is more of the category.
      admitted: which units may be the category's at all.
      own: the units by the selector's own rule; None where it has none.
      p_value: that a score as high is chance; None where the selector does not say.
    """

    score: Mapping[str, Float32[np.ndarray, "C *units"]]
    admitted: Mapping[str, Bool[np.ndarray, "C *units"]]
    own: Mapping[str, Bool[np.ndarray, "C *units"]] | None = None
    p_value: Mapping[str, Float64[np.ndarray, "C *units"]] | None = None


def score_units(run: Run, sample: Sample, settings: SelectSettings, set_name: str) -> dict[str, Scored]:
    """The scores of all units by every selector of the settings, in one pass over the counts.

    Args:
      run: a complete run.
      sample: the instructions that choose.
      settings: which selectors, and how they score.
      set_name: the sets whose cores are taken by `core`, `unique` and `general`.

    Raises:
      InputError: the run has not what a selector reads, or no two instructions can be compared.
    """
    selectors = settings.selectors
    if EXPERT_GROUP not in run.groups:
        for selector in selectors:
            if selector in ROUTING:
                raise InputError(f"{run.location}: selector {selector} scores experts, and the model has none")
    measures = {selector: MEASURES[selector] for selector in selectors if selector in MEASURES}
    _require_pairs(run, sample, list(measures))
    kept = measure_units(run, run.groups, sample, measures) if measures else {}
    scored = {}
    for selector in selectors:
        if selector in kept:
            scored[selector] = _of_counts(selector, kept[selector])
        elif selector in CORES:
            units = CORES[selector](open_sets(run, set_name), settings.rho, sample.rows)
            scored[selector] = Scored(units.score, units.mask, units.mask)
        elif selector == "attribution":
            score = over_others(open_attribution(run, settings.method), sample)
            scored[selector] = Scored(score, _above(score, 0.0))
        else:
            scored[selector] = _of_routing(run, sample, settings, selector)
    return scored


def _require_pairs(run: Run, sample: Sample, selectors: Sequence[str]) -> None:
    """Refuses a sample in which a category is never compared with another."""
    if not sample.control_length or not {"auroc", "average_precision"} & {*selectors}:
        return
    if alone := [one for one, pairs in zip(run.categories, sample.pairs, strict=True) if not pairs]:
        raise InputError(f"{run.location}: no instruction of another category is of similar length as those of "
                         f"{first_of(alone)}; control_length=False compares them all the same")  # fmt: skip


def _of_counts(selector: str, kept: Kept) -> Scored:
    score = {group: values[0] for group, values in kept.items()}
    rest = {group: values[1:].astype(np.float64) for group, values in kept.items()}
    if selector == "auroc":
        p_value = {group: ndtr(-z) for group, (z,) in rest.items()}
        return Scored(score, _above(score, NEUTRAL), p_value=p_value)
    if selector == "difference":
        p_value = {group: stdtr(freedom, -t) for group, (t, freedom) in rest.items()}
        return Scored(score, _above(score, 0.0), p_value=p_value)
    if selector == "lape":
        score, own = lape(score)
        return Scored(score, _above(score, 0.0), own)
    return Scored(score, _above(score, 0.0))


def _of_routing(run: Run, sample: Sample, settings: SelectSettings, selector: str) -> Scored:
    statistic = {"esft_gate": "gate_sum", "reap": "norm_sum"}.get(selector, "selected_count")
    if run.store.read(f"routed/{statistic}/zarr.json") is None:
        raise InputError(f"{run.location}: no routed/{statistic}, which selector {selector} reads; capture with "
                         f"value_statistics")  # fmt: skip
    sums = run.read(f"routed/{statistic}")[sample.rows].astype(np.float64)
    if selector == "reap":
        selected = run.read("routed/selected_count")[sample.rows].astype(np.float64)
        score = {EXPERT_GROUP: reap(sums, selected, sample)}
        return Scored(score, _above(score, 0.0))
    if selector == "risk_difference":
        score = {EXPERT_GROUP: risk_difference(sums, sample)}
        return Scored(score, _above(score, 0.0))
    if selector == "esft_token":
        sums /= run.manifest.model.num_experts_per_tok
    relevance = mean_of_instructions(sums, sample)
    if settings.by_layers:
        relevance = by_layers(relevance)
    values, mask = esft(relevance, settings.layer_share or LAYER_SHARE[selector])
    score = {EXPERT_GROUP: values}
    return Scored(score, _above(score, 0.0), {EXPERT_GROUP: mask})


def _above(score: ByGroup, neutral: float) -> ByGroup:
    return {group: values > neutral for group, values in score.items()}
