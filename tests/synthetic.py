"""Small made-up runs and sets, written the way capture and identify write them."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.store.arrays import Store
from sparcom_jax.store.attribution import Attribution, attribution_path, open_attribution, value_array
from sparcom_jax.store.manifest import CapturedInstructions, CapturedModel, CapturedTokenizer, Devices, Manifest, Tokens
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.schema import SCHEMA_VERSION, vector
from sparcom_jax.store.sets import DEFAULT_SET, SetManifest, set_arrays, sets_path
from sparcom_jax.store.statistics import kept_statistics
from sparcom_jax.units.groups import Group, group_from_json

DENSE = {"mlp": {"layers": [0, 1, 2, 3], "neuron": 21}}
MIXED = {
    "mlp": {"layers": [0], "neuron": 19},
    "shared": {"layers": [1, 2], "neuron": 10},
    "routed": {"layers": [1, 2], "expert": 3, "neuron": 13},
}
ROWS_PER_WRITE = 16

Masks = dict[str, np.ndarray]
"""Boolean masks [I, L, ...] by group."""


def make_run(
    root: Path,
    labels: list[int],
    *,
    groups: dict[str, dict[str, Any]] = DENSE,
    categories: tuple[str, ...] = ("CLS", "QA", "SUM"),
    token_count: list[int] | None = None,
    num_layers: int = 4,
    family: str = "llama",
    digest: str = "0" * 64,
    done: bool = True,
    seed: int = 0,
) -> Run:
    """Writes a run with random counts; the names of the instructions are i0, i1, ..."""
    rng = np.random.default_rng(seed)
    rows = len(labels)
    tokens = np.array(token_count if token_count is not None else rng.integers(5, 60, rows), np.uint32)
    store = Store(root)
    units = [group_from_json(name, entry) for name, entry in groups.items()]
    kept = [(unit, one) for unit in units for one in kept_statistics(unit, sets=False, values=False)]
    for group, statistic in kept:
        spec = statistic.array(group, rows, ROWS_PER_WRITE)
        shares = rng.random(spec.shape)
        counts = (shares * tokens.reshape(-1, *[1] * (len(spec.shape) - 1))).astype(spec.dtype)
        store.create_array(spec).write(counts).result()
    for name, values in (("category", np.array(labels, np.uint8)), ("token_count", tokens),
                         ("done", np.full(rows, done, np.uint8))):  # fmt: skip
        spec = vector(f"instruction/{name}", values.dtype.name, "instruction", rows)
        store.create_array(spec).write(values).result()
    lines = [{"id": f"i{i}", "category": categories[c], "instruction": "x", "token_count": int(t)}
             for i, (c, t) in enumerate(zip(labels, tokens, strict=True))]  # fmt: skip
    for name in ("instruction", *groups):
        store.write_group(name)
    store.write("instructions.jsonl", "".join(json.dumps(line) + "\n" for line in lines).encode())
    manifest = make_manifest(units, list(categories), rows, family=family, num_layers=num_layers, digest=digest)
    total = int(tokens.sum())
    made = replace(manifest.model, digest=f"model {seed}")
    known = replace(manifest, model=made, tokens=Tokens(fed=total, counted=total, slots_filled=1.0))
    store.write_group(attributes=known.to_json())
    return open_run(root)


def make_manifest(
    groups: list[Group], categories: list[str], rows: int, *, rows_per_write: int = ROWS_PER_WRITE,
    family: str = "llama", num_layers: int = 4, digest: str = "0" * 64,
) -> Manifest:  # fmt: skip
    """The manifest of a run that keeps counts."""
    return Manifest(
        model=CapturedModel(
            family=family, path="models/made-up", source="hub/made-up", digest="m0", conversion={"files": []},
            checkpoint_dtype="float32", parameters=1234, num_layers=num_layers, hidden_size=8, num_experts_per_tok=2,
        ),
        tokenizer=CapturedTokenizer(digest="t0", special_token_ids=[0, 1]),
        instructions=CapturedInstructions(source="rows.jsonl", digest=digest, count=rows, truncated={}),
        categories=categories,
        groups={group.name: group for group in groups},
        rows_per_write=rows_per_write,
        capture={"convention": "gate", "keep": "counts"},
        execution={"placement": "pmap"},
        selection=None,
        dtype="float32",
        devices=Devices(platform="cpu", kind="cpu", mesh={"data": 1, "model": 1}, kernels={"counting": "scatter16"},
                        processes=1),
        versions={"jax": "0"},
    )  # fmt: skip


def write_sets(run: Run, masks: Masks, name: str = DEFAULT_SET, **selection: object) -> None:
    """Writes sets given as boolean masks [I, L, ...] by group."""
    for group_name, mask in masks.items():
        group = run.groups[group_name]
        members = np.stack([mask[run.category == c].sum(axis=0) for c in range(len(run.categories))])
        values = {
            "mask": np.packbits(mask, axis=-1, bitorder="little"),
            "size": mask.reshape(len(mask), -1).sum(axis=1),
            "cut": np.full(len(mask), 0.5),
            "membership": members,
        }
        for spec in set_arrays(name, group, len(mask), ROWS_PER_WRITE, len(run.categories)):
            run.store.create_array(spec).write(values[spec.name.split("/")[-1]].astype(spec.dtype)).result()
    digest = hashlib.sha256(b"".join(mask.tobytes() for mask in masks.values())).hexdigest()
    made = SetManifest({"selector": "excess", "epsilon": 0.05, "ties": "include"} | selection, list(masks), digest)
    run.store.write_group(sets_path(name), made.to_json())


def write_attribution(run: Run, values: Masks, method: str = "gradient", per_category: int = 0) -> Attribution:
    """Writes an attribution given as values [I, L, ...] by group, of the first instructions of each category."""
    values = {name: of_group[run.first_rows(per_category)] for name, of_group in values.items()}
    attributes = {"schema_version": SCHEMA_VERSION, "method": method, "steps": 1, "groups": list(values),
                  "run_digest": run.digest, "per_category": per_category}  # fmt: skip
    for name, of_group in values.items():
        spec = value_array(method, run.groups[name], len(of_group), ROWS_PER_WRITE)
        run.store.create_array(spec).write(of_group.astype(np.float32)).result()
    run.store.write_group(attribution_path(method), attributes | {"complete": True})
    return open_attribution(run, method)


def random_values(run: Run, *, seed: int = 0) -> Masks:
    """Attributions at random, most of them small."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((run.category.size, *group.shape)) ** 3 / 1e3 for name, group in run.groups.items()
    }


def random_masks(run: Run, *, seed: int = 0, share: float = 0.2, signal: float = 0.5) -> Masks:
    """Masks of random units, none empty, and of units that a category's instructions hold with probability `signal`."""
    rng = np.random.default_rng(seed)
    return {name: _mask(rng, run, group, share, signal) for name, group in run.groups.items()}


def _mask(rng: np.random.Generator, run: Run, group: Group, share: float, signal: float) -> np.ndarray:
    own = rng.random((len(run.categories), *group.shape)) < share
    held = rng.random((run.category.size, *group.shape))
    return _filled((held < share / 2) | (own[run.category] & (held < signal)))


def _filled(mask: np.ndarray) -> np.ndarray:
    """The same, with one unit where an instruction has none."""
    flat = mask.reshape(len(mask), -1)
    for row in np.flatnonzero(~flat.any(axis=1)):
        flat[row, row % flat.shape[1]] = True
    return mask


def make_pair(root: Path, labels: list[int], **options: Any) -> tuple[Run, Run, Masks, Masks]:
    """A base and a tuned run of one architecture, with sets that agree in part."""
    base, tuned = (make_run(root / role, labels, seed=seed, **options) for seed, role in enumerate(("base", "tuned")))
    before, fresh = random_masks(base, seed=1), random_masks(base, seed=2)
    rng = np.random.default_rng(3)
    after = {name: _filled(np.where(rng.random(mask.shape) < 0.7, mask, fresh[name])) for name, mask in before.items()}
    write_sets(base, before)
    write_sets(tuned, after)
    return base, tuned, before, after
