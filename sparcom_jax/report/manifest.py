"""Where the numbers come from: the models, runs and settings behind the results, and the commands that make them."""

import json
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath
from typing import Any

from sparcom_jax.report import commands
from sparcom_jax.report.markup import settings, table, text, wide
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Result

FIELDS = {
    "model source": ("model", "source"),
    "model directory": ("model", "path"),
    "model family": ("model", "family"),
    "model digest": ("model", "digest"),
    "conversion": ("model", "conversion"),
    "dtype of the checkpoint": ("model", "checkpoint_dtype"),
    "parameters": ("model", "parameters"),
    "layers": ("model", "num_layers"),
    "tokenizer digest": ("tokenizer", "digest"),
    "instruction file": ("instructions", "source"),
    "instruction digest": ("instructions", "digest"),
    "instructions": ("instructions", "count"),
    "tokens fed": ("tokens", "fed"),
    "tokens counted": ("tokens", "counted"),
    "instructions truncated": ("instructions", "truncated"),
    "dtype": ("dtype",),
    "devices": ("devices",),
    "versions": ("versions",),
    "capture settings": ("capture",),
    "execution settings": ("execution",),
}
"""What is shown of a run, and where its attributes hold it."""

Attributes = dict[str, Any]


def model_name(side: Attributes) -> str:
    """A short name of the model of a side: the last part of where it came from, and its family."""
    model = side["model"]
    source = PurePosixPath(str(model.get("source") or model.get("path") or side["run"])).name
    return f"{source} ({model['family']})"


def manifest(results: Sequence[Result]) -> str:
    """The manifest of every distinct run, as folded tables, and the commands of all results."""
    runs = "".join(_table(run, attributes) for run, attributes in _runs(results))
    return f"{runs}<h3>Commands</h3>{wide(f'<pre>{text(_commands(results))}</pre>', 'commands')}"


def _commands(results: Sequence[Result]) -> str:
    """All commands, each once, in the order in which they run."""
    sides = [side for result in results for side in result.sides.values()]
    made = [line for side in sides for line in commands.of_run(side)]
    order = ("convert", "capture", "identify", "attribute", "select")
    made.sort(key=lambda line: order.index(line.split()[1]))
    return "\n".join(dict.fromkeys([*made, *map(commands.of_result, results)]))


def _runs(results: Sequence[Result]) -> Iterator[tuple[str, Attributes]]:
    """Distinct runs. What several summaries say of one run adds up."""
    found: dict[tuple[str, str], Attributes] = {}
    for result in results:
        for side in result.sides.values():
            key = side["run"], json.dumps(side["model"], sort_keys=True)
            recorded = side.get("manifest")
            more = recorded if isinstance(recorded, dict) else {}
            found[key] = found.get(key, {}) | {"model": side["model"]} | more
    for (run, _), attributes in sorted(found.items(), key=lambda entry: entry[0]):
        yield run, attributes


def _table(run: str, attributes: Attributes) -> str:
    rows, missing = [], []
    for name, path in FIELDS.items():
        value: Any = attributes
        for key in path:
            value = value.get(key) if isinstance(value, dict) else None
        if value is None:
            missing.append(name)
        else:
            rows.append((name, _shown(name, value)))
    body = table(("what", "value"), rows)
    if missing:
        body += f"<p class='source'>Not recorded in the results: {text(', '.join(missing))}.</p>"
    return f"<details><summary><bdi>{text(run)}</bdi></summary>{body}</details>"


def _shown(name: str, value: object) -> str:
    if name == "instructions truncated" and isinstance(value, dict):
        return str(number(len(value)))
    if isinstance(value, dict):
        return settings(value)
    return str(number(value)) if isinstance(value, int) else str(value)
