"""Results of every kind, of small made-up runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis.align import align
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import CompareSettings, EvaluateSettings
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.causal.controls import CONTROLS
from sparcom_jax.causal.effects import Effects, Measured
from sparcom_jax.causal.tables import write_tables
from sparcom_jax.causal.texts import Scored
from sparcom_jax.resampling import bootstrap_weights, category_means, one_hot
from sparcom_jax.results.files import start_results, write_summary
from sparcom_jax.units.groups import Group
from sparcom_jax.units.unit_set import UnitSet
from tests.synthetic import MIXED, make_pair, make_run, random_masks, random_values, write_attribution, write_sets

EVIL = "</script><b>x&"
CATEGORIES = (EVIL, "\"q\" 'r' \u2028", "SUM")
LABELS = [i % 3 for i in range(18)]
EVALUATED = EvaluateSettings(permutations=9, bootstraps=9)
COMPARED = CompareSettings(permutations=9, bootstraps=9)
EVALUATE, COMPARE, ACROSS, ABLATE = "evaluate", "compare/tuned & <i>more</i>", "compare/across", "ablate"
ALIGN = "align"


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
    return root / "results"


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
