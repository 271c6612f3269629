"""Results of every kind, of small made-up runs."""

import csv
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis.align import align
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import CompareSettings, EvaluateSettings
from sparcom_jax.analysis.units import write_cards
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.causal.controls import CONTROLS
from sparcom_jax.causal.effects import Effects, Measured
from sparcom_jax.causal.settings import SteerSettings
from sparcom_jax.causal.tables import write_tables
from sparcom_jax.causal.texts import Scored
from sparcom_jax.resampling import bootstrap_weights, category_means, one_hot
from sparcom_jax.results.files import start_results, write_summary, write_table
from sparcom_jax.results.steering import STEERING, STEERING_TEXTS
from sparcom_jax.results.tuning import EVALUATION, EVALUATION_ROWS, STEPS
from sparcom_jax.results.tunings import TUNED_UNITS, TUNING_CHANGES, TUNINGS
from sparcom_jax.store.explored import write_explored
from sparcom_jax.store.run import Run
from sparcom_jax.tune.settings import TuneSettings, TuningsSettings
from sparcom_jax.units.groups import Group
from sparcom_jax.units.unit_set import UnitSet
from tests.synthetic import MIXED, make_pair, make_run, random_masks, random_values, write_attribution, write_sets

EVIL = "</script><b>x&"
CATEGORIES = (EVIL, "\"q\" 'r' \u2028", "SUM")
LABELS = [i % 3 for i in range(18)]
EVALUATED = EvaluateSettings(permutations=9, bootstraps=9)
COMPARED = CompareSettings(permutations=9, bootstraps=9)
EVALUATE, COMPARE, ACROSS, ABLATE = "evaluate", "compare/tuned & <i>more</i>", "compare/across", "ablate"
ALIGN, EXPLORE = "align", "explore"


def make_results(root: Path) -> Path:
    """Writes an evaluation, two comparisons, an ablation and an alignment, below `root / "results"`."""
    base, tuned, _, _ = make_pair(root / "runs", LABELS, groups=MIXED, categories=CATEGORIES)
    other = make_run(root / "other", LABELS, family="mistral", categories=CATEGORIES)
    write_sets(other, random_masks(other))
    evaluate(base, root / "results" / EVALUATE, EVALUATED)
    compare(base, tuned, root / "results" / COMPARE, COMPARED)
    compare(base, other, root / "results" / ACROSS, COMPARED)
    write_ablation(root / "results" / ABLATE)
    write_attribution(base, random_values(base))
    align(base, root / "results" / ALIGN)
    write_exploration(base, root / "results" / EXPLORE)
    return root / "results"


def write_exploration(run: Run, output: Path) -> None:
    """A result of kind `explore`, of made-up cards: a neuron of two categories, one that is never active, an expert."""
    frequency = {name: [0.5 - number / 4, 0.1 - number / 40, 0.6] for number, name in enumerate(CATEGORIES)}
    example = {
        "id": EVIL, "category": EVIL, "most": 2.5, "frequency": 0.25, "at": 2, "counted": [1, 4], "left_out": [0, 9],
        "tokens": ["<s>", EVIL, " \u2028\u202e", "\n"], "activations": [3.0, 0.5, 2.5, -0.1],
    }  # fmt: skip
    words = {"raises": [[EVIL, 3.5], [" a", 2.0]], "lowers": [["\u2029", -3.0]]}
    shared: dict[str, Any] = {"frequency": frequency, "activations": {}}
    cards = [
        {
            "unit": "L0.N1", "group": "mlp", "layer": 0,
            "of": {EVIL: {"rank": 2, "score": 0.9}, "SUM": {"rank": 1, "score": 0.8}}, **words,
            "neighbours": [["L0.N2", 0.5], ["L9.N9", 0.25]], "attribution": dict.fromkeys(CATEGORIES, 1e-5),
            "examples": [example] * 6, **shared,
        },
        {
            "unit": "L0.N2", "group": "mlp", "layer": 0, "of": {EVIL: {"rank": 1, "score": 0.7}},
            "examples": [], **shared,
        },
        {
            "unit": "L1.E2", "group": "expert", "layer": 1, "of": {CATEGORIES[1]: {"rank": 1, "score": 0.6}},
            "examples": [example], **shared,
        },
    ]  # fmt: skip
    write_explored(run, "auroc", {
        "run_digest": run.digest, "units": {"name": "auroc", "selector": "auroc", "digest": "1"},
        "settings": {"top": 2, "texts": True},
        "categories": list(CATEGORIES), "read": 9, "sample": 3, "cards": cards,
    })  # fmt: skip
    write_cards(run, "auroc", output)


def write_ablation(output: Path) -> None:
    """A result of kind `ablate`, of made-up likelihoods."""
    random = np.random.default_rng(0)
    size, draws = len(CATEGORIES), 5
    category = np.repeat(np.arange(size), 6).astype(np.uint8)
    baseline = random.uniform(1, 3, category.size)
    observed = one_hot(category[None], size)
    weights = np.concatenate([observed, bootstrap_weights(category, size, 9, random)])
    mask = np.zeros((size, 2, 40), bool)
    for off, one in enumerate(mask):
        one[:, : 7 + off] = True
    made = {"name": "frequency", "run": "/runs/other", "digest": "0"}
    origin = {"selector": "core", "size": None, "half": None, "seed": None, "rho": 0.5, "set": made}
    group = Group("mlp", (0, 1), ("neuron",), (40,))
    units = UnitSet(CATEGORIES, {"mlp": group}, {"mlp": mask.astype(np.float32)}, {"mlp": mask}, origin)
    names, tokens = [f"i{row}" for row in range(category.size)], np.full(category.size, 3, np.int32)
    texts = TokenizedSet([np.ones(4, np.int32)] * category.size, tokens - 2, tokens + 1, {})
    scored = Scored(np.arange(category.size), names, category, np.bincount(category), texts, held_out=0)
    means = category_means(baseline[:, None], observed)[0, :, 0]

    def measured(dose: int | None) -> Measured:
        controls = {name: means + random.normal(0, 0.1, (draws, size, size)) for name in CONTROLS}
        counts = units.counts(["mlp"]) if dose is None else np.full(size, dose)
        return Measured(counts, baseline + random.normal(0, 0.1, (size, category.size)), controls)

    keys: list[tuple[str, int | None]] = [("neurons", None), ("experts", None), ("neurons", 2), ("neurons", 5)]
    effects = {key: Effects(measured(key[1]), baseline, weights) for key in keys}
    start_results(output, "ablate")
    write_tables(output, units, scored, effects)
    summary = {"kind": "ablate", "run": "runs/base", "model": {"family": "llama"}, "set": made,
               "settings": {"draws": draws, "separator": "\n"}, "controls": CONTROLS, "absent": {},
               "categories": CATEGORIES, "baseline": means,
               "targets": {target: one.summary() for (target, dose), one in effects.items() if not dose}}  # fmt: skip
    write_summary(output, summary)


def write_trainings(results: Path) -> None:
    """Results of the kinds `finetune`, `tunings` and `steer`, of made-up losses."""
    random = np.random.default_rng(0)
    model = {"family": "llama", "path": "models/a", "source": "hf/a", "digest": "0", "parameters": 1000}
    counts = {"name": "counts", "run": "runs/a", "digest": "0"}
    shared = {"categories": CATEGORIES, "held_out": 0}
    output = results / "tuned"
    start_results(output, "finetune")
    write_table(output, STEPS, [(step, 9, 2.5 - step / 9, 0.1, 1e-3) for step in range(1, 5)])
    held = [(step, part, name, 5, 2 - step / 8, -step / 8, -1.0 if step else "", 1.0 if step else "")
            for part in ("validation", "held_out") for step in (0, 2, 4) for name in CATEGORIES]  # fmt: skip
    write_table(output, EVALUATION, held)
    write_table(output, EVALUATION_ROWS, [("held_out", EVIL, name, 2.0, 1.5) for name in CATEGORIES])
    train = {"kind": "units", "name": "units:a:SUM", "run": "runs/a", "digest": "0", "parameters": 30}
    write_summary(output, {
        "kind": "finetune", "model": model, "run": "tuned", "train": train, "instructions": {"source": EVIL},
        "settings": asdict(TuneSettings(category="SUM", learning_rate=1e-3)), "execution": {"batch_tokens": 512},
        "learnt": [0, 0, 5], "steps": 4, "of_steps": 6, "kept": 4, "tokens_per_second": 100.0,
        "bytes": {"parameters": 4000, "trained": 120, "optimizer": 244}, **shared,
    })  # fmt: skip
    output, names = results / "tunings", ("units:a:SUM", "all")
    start_results(output, "tunings")
    write_table(output, TUNINGS, [(name, 30, 1e-3, 2, *random.random(9), 3.0) for name in names])
    write_table(output, TUNING_CHANGES, [(name, one, int(one == "SUM"), 5, 2.0, -0.5, -0.6, -0.4)
                                         for name in names for one in CATEGORIES])  # fmt: skip
    write_table(output, TUNED_UNITS, [(name, names[0], 1, 3, 0.01, 0.9, 0.4, 0.6, 0.01) for name in names])
    write_summary(output, {
        "kind": "tunings", "run": "runs/a", "model": model, "counts": counts,
        "settings": asdict(TuningsSettings(draws=9)),
        "trained": "tuned", "tuned": ["runs/a-tuned"], "tune": {names[0]: {}}, "learnt": [0, 0, 5], **shared,
    })  # fmt: skip
    output = results / "steer"
    start_results(output, "steer")
    doses = [("none", "", "", 1), ("auroc", "", "SUM", 0), ("auroc", "", "SUM", 2), ("random_matched", 1, "SUM", 2)]
    write_table(output, STEERING, [(*dose, name, 5, 2.0, 0.5, *((0.4, 0.6) if dose[2] else ("", "")), 20, 1, 0.25, 1.5,
                                    5 if name == EVIL else 0, 0.5 if name == EVIL else "")
                                   for dose in doses for name in CATEGORIES])  # fmt: skip
    write_table(output, STEERING_TEXTS, [("auroc", "SUM", 2, EVIL, EVIL, EVIL)])
    units = {"name": "auroc", "run": "runs/a", "digest": "0", "selector": "auroc"}
    write_summary(output, {
        "kind": "steer", "run": "runs/a", "model": model, "units": units, "steered": ["SUM"], "asked": [5, 5, 5],
        "settings": asdict(SteerSettings(alphas="0,2", category="SUM")), **shared,
    })  # fmt: skip


def read_table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def edit(directory: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = directory / "summary.json"
    summary = json.loads(path.read_text())
    change(summary)
    path.write_text(json.dumps(summary))


def replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))
