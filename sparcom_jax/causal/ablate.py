"""Causal role: what switching off a category's units does to the likelihood of every category's responses."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import TokenizedSet, tokenize_prompts, tokenize_responses
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.edits import Edits
from sparcom_jax.progress import progress
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets, open_sets
from sparcom_jax.units.groups import EXPERT_GROUP

TABLES = {
    "ablation.csv": ("target", "kind", "draw", "category_off", "category_measured", "units_off", "instructions", "nll",
                     "delta"),
    "baseline.csv": ("category", "instructions", "tokens", "nll"),
}  # fmt: skip

Units = dict[str, Bool[np.ndarray, "..."]]
"""Units to switch off: group -> mask over its units."""


@dataclass(frozen=True)
class AblationSettings:
    """How units are switched off and what is measured.

    Attributes:
      set_name: which sets.
      rho: share of a category's instructions that must hold a core unit.
      draws: random sets of the same size, for each category.
      per_category: instructions of each category that are scored, the first in the run's order; 0 takes all.
      batch_tokens: token slots of a batch, per device.
      placement: `pmap` or `mesh`.
      model_parallel: devices that share one batch, for `mesh`.
      dtype: as for capture.
      seed: of the random sets.
    """

    set_name: str = "frequency"
    rho: float = 0.5
    draws: int = 20
    per_category: int = 0
    batch_tokens: int = 1024
    placement: str = "pmap"
    model_parallel: int = 1
    dtype: str = "auto"
    seed: int = 0


def ablate(model: ModelDir, run: Run, output: Path, settings: AblationSettings | None = None) -> dict[str, Any]:
    """Switches off the core neurons, then the core experts, of each category, against random units.

    Neurons are multiplied by 0 at the input of down_proj; experts have their router logits set to minus infinity. The
    random sets have as many units in every layer and group as the core, drawn from the layer's other units.

    Args:
      model: the model that the run was captured from.
      run: a complete run with sets, whose instructions have responses.
      output: directory of `ablation.csv`, `baseline.csv` and `summary.json`, written last.
      settings: what to switch off and how to measure.

    Returns:
      The content of `summary.json`.

    Raises:
      InputError: the run is incomplete, lacks the sets or responses, or was captured from another model; there is
        nothing to switch off; or a likelihood is not finite.
    """
    settings = settings or AblationSettings()
    if not 0 < settings.rho <= 1:
        raise InputError(f"rho must be within (0, 1], got {settings.rho}")
    if settings.draws < 1 or settings.per_category < 0:
        raise InputError(
            f"draws {settings.draws} must be positive and per_category {settings.per_category} not negative"
        )
    model.require_head("ablation")
    run.require_complete()
    if run.attributes["model"]["digest"] != model.digest:
        raise InputError(f"{run.location}: was captured from another model than {model.path}")
    if run.attributes["tokenizer"]["digest"] != model.tokenizer_digest:
        raise InputError(f"{run.location}: was captured with another tokenizer than that of {model.path}")
    sets = open_sets(run, settings.set_name)
    sets.require_units()
    targets = {"neurons": [group for group in sets.groups if group != EXPERT_GROUP]}
    if EXPERT_GROUP in sets.groups:
        targets["experts"] = [EXPERT_GROUP]
    cores = {group: sets.core(group, settings.rho) for group in sets.groups}
    _require_units_to_switch_off(sets, cores, targets, settings.rho)
    _require_enough_experts(run, cores)
    rows = _scored_rows(run, settings.per_category)
    texts = _texts(model, run, rows)
    placement = make_placement(settings.placement, settings.model_parallel, model.config)
    start_results(output, "ablate", TABLES)
    params = model.restore(placement.param_shardings(model.config), compute_dtype(settings.dtype, model.dtype))
    names = [run.instructions[row]["id"] for row in rows]
    likelihood = Likelihood(model.config, params, placement, texts, names, settings.batch_tokens)

    category = run.category[rows]
    baseline = _by_category(
        likelihood.mean_nll(_edits(sets, {}), " with nothing switched off"), category, len(run.categories)
    )
    table, results = [], {}
    work = [(target, off) for target in targets for off in range(len(run.categories))]
    with progress("ablate", len(work) * (1 + settings.draws), "forward passes") as bar:
        for target, off in work:
            core: Units = {group: cores[group][off] for group in targets[target]}
            random = np.random.default_rng([settings.seed, off, list(targets).index(target)])
            for draw, units in enumerate([core, *_random_units(core, settings.draws, random)]):
                chosen = f"random {target} (draw {draw}) in the place of" if draw else f"the core {target} of"
                when = f" with {chosen} {run.categories[off]} switched off"
                nll = _by_category(likelihood.mean_nll(_edits(sets, units), when), category, len(run.categories))
                results[target, off, draw] = nll - baseline
                table += [
                    (
                        target,
                        "random" if draw else "core",
                        draw if draw else "",
                        run.categories[off],
                        measured,
                        _count(units),
                        int((category == index).sum()),
                        nll[index],
                        nll[index] - baseline[index],
                    )
                    for index, measured in enumerate(run.categories)
                ]
                bar.advance()
    write_table(output / "ablation.csv", TABLES["ablation.csv"], table)
    write_table(
        output / "baseline.csv",
        TABLES["baseline.csv"],
        [
            (name, int((category == index).sum()), int(texts.counted[category == index].sum()), baseline[index])
            for index, name in enumerate(run.categories)
        ],
    )
    return write_summary(
        output,
        {
            "kind": "ablate",
            "run": run.location,
            "model": run.attributes["model"],
            "manifest": run.attributes,
            "set": sets.record(),
            "settings": {
                "rho": settings.rho,
                "draws": settings.draws,
                "per_category": settings.per_category,
                "template": run.attributes["capture"]["template"],
                "seed": settings.seed,
                "ablation": "zero",
                "control": "random units of the same layer and group, as many",
            },
            "categories": run.categories,
            "tables": list(TABLES),
            "baseline": baseline,
            "targets": {
                target: {
                    "units_off": [_count({g: cores[g][off] for g in groups}) for off in range(len(run.categories))],
                    **_summarise(results, target, len(run.categories), settings.draws),
                }
                for target, groups in targets.items()
            },
        },
    )


def _summarise(
    results: dict[tuple[str, int, int], Float64[np.ndarray, "C"]],
    target: str,
    categories: int,
    draws: int,
) -> dict[str, Float64[np.ndarray, "C C"]]:
    """Core against random sets: rows are the category switched off, columns the category measured."""
    core = np.stack([results[target, off, 0] for off in range(categories)])
    random = np.stack([[results[target, off, 1 + d] for off in range(categories)] for d in range(draws)])
    return {
        "delta": core,
        "random_mean": random.mean(0),
        "random_low": random.min(0),
        "random_high": random.max(0),
        "p_value": (1 + (random >= core).sum(0)) / (1 + draws),
    }


def _random_units(core: Units, draws: int, random: np.random.Generator) -> Iterator[Units]:
    """Random sets with as many units in every layer of every group as the core.

    Drawn without replacement from the layer's units outside the core; where these are too few, the rest comes from
    the core, so that the number is always met.
    """
    for _ in range(draws):
        units = {}
        for group, mask in core.items():
            flat = mask.reshape(len(mask), -1)
            drawn = np.zeros_like(flat)
            for layer, members in enumerate(flat):
                outside = random.permutation(np.flatnonzero(~members))
                inside = random.permutation(np.flatnonzero(members))
                drawn[layer, np.concatenate([outside, inside])[: members.sum()]] = True
            units[group] = drawn.reshape(mask.shape)
        yield units


def _edits(sets: Sets, off: Units) -> Edits:
    """Edits that switch off the units given and leave all others as they are."""
    nothing = {name: np.zeros(group.shape, bool) for name, group in sets.run.groups.items()}
    return Edits.switch_off(nothing | off)


def _require_units_to_switch_off(sets: Sets, cores: Units, targets: dict[str, list[str]], rho: float) -> None:
    for target, groups in targets.items():
        sizes = sum(cores[group].reshape(len(cores[group]), -1).sum(1) for group in groups)
        if empty := [name for name, size in zip(sets.run.categories, sizes, strict=True) if not size]:
            raise InputError(f"{sets.run.location}: set {sets.name!r} has no core {target} of {first_of(empty)} at "
                             f"rho {rho}, so nothing to switch off; take a smaller rho or larger sets")  # fmt: skip


def _require_enough_experts(run: Run, cores: Units) -> None:
    if EXPERT_GROUP not in cores:
        return
    group, needed = run.groups[EXPERT_GROUP], int(run.attributes["model"]["num_experts_per_tok"])
    left = group.sizes[0] - cores[EXPERT_GROUP].sum(-1)
    for category, layer in np.argwhere(left < needed):
        raise InputError(
            f"{run.location}: the core experts of {run.categories[category]} leave {left[category, layer]} "
            f"experts in layer {group.layers[layer]}, but a token needs {needed}; use a set with fewer"
        )


def _scored_rows(run: Run, per_category: int) -> np.ndarray:
    rows = [np.flatnonzero(run.category == index) for index in range(len(run.categories))]
    return np.sort(np.concatenate([of[: per_category or len(of)] for of in rows]))


def _texts(model: ModelDir, run: Run, rows: np.ndarray) -> TokenizedSet:
    chosen = InstructionSet(run.location, [run.instructions[row] for row in rows], run.categories)
    tokenizer, config = model.tokenizer(), model.config
    captured = run.attributes["capture"]
    limit = min(captured["max_tokens"] or config.max_positions, config.max_positions)
    template = make_template(captured["template"], tokenizer)
    if template.digest != captured["template_digest"]:
        raise InputError(f"{run.location}: was captured with another rendering of template {captured['template']!r}; "
                         f"one that states the date is another every day: capture again")  # fmt: skip
    prompts = tokenize_prompts(chosen, tokenizer, template, scope="prompt", vocab_size=config.vocab_size,
                               max_tokens=limit, truncate=captured["truncate"])  # fmt: skip
    return tokenize_responses(chosen, prompts, tokenizer, vocab_size=config.vocab_size, separator=template.separator,
                              max_tokens=config.max_positions, end=True)  # fmt: skip


def _by_category(nll: Float64[np.ndarray, "I"], category: np.ndarray, categories: int) -> Float64[np.ndarray, "C"]:
    """Mean over the instructions of each category."""
    return np.bincount(category, nll, categories) / np.maximum(np.bincount(category, minlength=categories), 1)


def _count(units: Units) -> int:
    return int(sum(mask.sum() for mask in units.values()))
