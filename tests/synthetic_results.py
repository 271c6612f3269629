"""Results of every kind, of small made-up runs."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import CompareSettings, EvaluateSettings
from sparcom_jax.results.files import write_table
from sparcom_jax.results.tables import ABLATION, BASELINE
from tests.synthetic import MIXED, make_pair, make_run, random_masks, write_sets

EVIL = "</script><b>x&"
CATEGORIES = (EVIL, "\"q\" 'r' \u2028", "SUM")
LABELS = [i % 3 for i in range(18)]
EVALUATED = EvaluateSettings(permutations=9, bootstraps=9)
COMPARED = CompareSettings(permutations=9, bootstraps=9)
EVALUATE, COMPARE, ACROSS, ABLATE = "evaluate", "compare/tuned & <i>more</i>", "compare/across", "ablate"


def make_results(root: Path) -> Path:
    """Writes an evaluation, a comparison of a pair, one across families, and an ablation, below `root / "results"`."""
    base, tuned, _, _ = make_pair(root / "runs", LABELS, groups=MIXED, categories=CATEGORIES)
    other = make_run(root / "other", LABELS, family="mistral", categories=CATEGORIES)
    write_sets(other, random_masks(other))
    evaluate(base, root / "results" / EVALUATE, EVALUATED)
    compare(base, tuned, root / "results" / COMPARE, COMPARED)
    compare(base, other, root / "results" / ACROSS, COMPARED)
    write_ablation(root / "results" / ABLATE)
    return root / "results"


def write_ablation(output: Path) -> None:
    """A result of kind `ablate`, as its tables and its summary are agreed."""
    rng = np.random.default_rng(0)
    size, draws, rows, targets = len(CATEGORIES), 5, [], {}
    baseline = rng.uniform(1, 3, size)
    for target in ("neurons", "experts"):
        core, random = rng.normal(0, 0.1, (size, size)), rng.normal(0, 0.1, (draws, size, size))
        for draw, change in (("", core), *enumerate(random)):
            for a, b in np.ndindex(size, size):
                rows.append((target, "core" if draw == "" else "random", draw, CATEGORIES[a], CATEGORIES[b], 7 + a, 6,
                             baseline[b] + change[a, b], change[a, b]))  # fmt: skip
        targets[target] = {
            "units_off": [7 + a for a in range(size)], "delta": core.tolist(),
            "random_mean": random.mean(axis=0).tolist(), "random_low": random.min(axis=0).tolist(),
            "random_high": random.max(axis=0).tolist(), "p_value": rng.random((size, size)).tolist(),
        }  # fmt: skip
    losses = [(category, 6, 100, nll) for category, nll in zip(CATEGORIES, baseline, strict=True)]
    output.mkdir(parents=True)
    write_table(output, ABLATION, rows)
    write_table(output, BASELINE, losses)
    made = {"name": "frequency", "run": "/runs/other", "digest": "0"}
    summary = {"schema_version": 1, "kind": "ablate", "run": "runs/base", "model": {"family": "llama"}, "set": made,
               "settings": {"draws": draws, "separator": "\n"}, "categories": CATEGORIES, "baseline": baseline.tolist(),
               "targets": targets}  # fmt: skip
    (output / "summary.json").write_text(json.dumps(summary))


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
