"""The manifest of a run: what it says of itself, and what must be the same for it to go on."""

import hashlib
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

import jax

from sparcom_jax.batches.packing import Plan
from sparcom_jax.batches.templates import Template
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.placement import Placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.units.groups import Group
from sparcom_jax.version import VERSION


def describe(
    model: ModelDir,
    instructions: InstructionSet,
    texts: TokenizedSet,
    template: Template,
    groups: list[Group],
    settings: CaptureSettings,
    execution: ExecutionSettings,
    selection: Selection | None,
    stop: tuple[int, ...],
    placement: Placement,
    dtype: str,
    rows_per_block: int,
) -> dict[str, Any]:
    """All that the numbers of a run depend on, as its attributes keep it.

    Args:
      model: the model.
      instructions: the rows.
      texts: what is fed; for scope `generated`, what is continued.
      template: what stands around an instruction.
      groups: the model's neuron groups.
      settings: what is fed, counted and kept.
      execution: where and how the model runs.
      selection: how the device cuts the counts of neurons, or None where they are kept.
      stop: token ids that end a continuation.
      placement: where the model lies.
      dtype: that it runs in.
      rows_per_block: instructions that are written together.
    """
    config = model.config
    tokenizer = model.tokenizer()
    special = sorted(set(tokenizer.all_special_ids))
    return {
        "schema_version": SCHEMA_VERSION,
        "model": {
            "family": config.family,
            "path": str(model.path),
            "source": model.manifest["source"],
            "digest": model.digest,
            "conversion": model.manifest["conversion"],
            "checkpoint_dtype": model.dtype,
            "parameters": model.manifest["parameters"],
            "num_layers": config.num_layers,
            "hidden_size": config.width,
            "num_experts_per_tok": config.experts.per_token if config.experts else 0,
        },
        "tokenizer": {"digest": model.tokenizer_digest, "special_token_ids": special},
        "instructions": {
            "source": instructions.source,
            "digest": instructions.digest,
            "count": len(instructions.rows),
            "truncated": {instructions.rows[row]["id"]: size for row, size in texts.truncated.items()},
        },
        "categories": instructions.categories,
        "groups": {group.name: group.to_json() for group in groups},
        "rows_per_write": rows_per_block,
        "capture": {
            **asdict(settings),
            "template_digest": template.digest,
            "bos": "as the tokenizer adds it" if template.adds_special else "once, by the template or before it",
            "padding": "never counted, never routed",
            "stop_token_ids": list(stop),
        },
        "execution": asdict(execution),
        "selection": selection.of_neurons() if selection else None,
        "dtype": dtype,
        "devices": {
            "platform": jax.default_backend(),
            "kind": jax.devices()[0].device_kind,
            "mesh": dict(placement.mesh.shape),
            "kernels": asdict(placement.kernels),
            "processes": jax.process_count(),
        },
        "versions": {
            "python": platform.python_version(),
            "sparcom_jax": VERSION,
            **{name: version(name) for name in ("jax", "flax", "transformers", "tensorstore")},
        },
    }


def record_tokens(store: Store, texts: TokenizedSet, plan: Plan) -> None:
    """Adds to a run what is known once all tokens are: how many are fed and counted, and how full the batches are."""
    tokens = {"fed": int(texts.lengths.sum()), "counted": int(texts.counted.sum()),
              "slots_filled": round(plan.filled, 6)}  # fmt: skip
    attributes = store.read_attributes() or {}
    if attributes.get("tokens") != tokens:
        store.write_group("", attributes | {"tokens": tokens})


# What must be the same for a run to go on: everything that the numbers depend on. The count of devices and processes is
# not among it, because every device computes the same batches.
IDENTITY = (
    ("schema_version",), ("model", "digest"), ("model", "family"), ("tokenizer", "digest"), ("instructions", "digest"),
    ("categories",), ("groups",), ("rows_per_write",), ("capture",), ("execution",), ("selection",), ("dtype",),
    ("devices", "platform"), ("devices", "mesh", "model"), ("devices", "kernels"), ("versions", "jax"),
    ("versions", "sparcom_jax"),
)  # fmt: skip


def identity_digest(attributes: dict[str, Any]) -> str:
    """Digest of all that the numbers of a run depend on, from its attributes."""
    identity = [_look_up(attributes, path) for path in IDENTITY]
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_or_create(store: Store, manifest: dict[str, Any]) -> bool:
    """Opens a run that is to go on, or begins one.

    Returns:
      Whether the run existed.

    Raises:
      InputError: it was captured with something else, or the place holds other files.
    """
    existing = store.read_attributes()
    resumed = existing is not None
    if existing is None and store.names():
        existing = store.read_attributes()  # another process of the job may have begun the run just now
        if existing is None:
            raise InputError(f"{store.location}: is not empty and holds no run; choose another --output")
    if existing is None:
        store.write_group("", manifest)
        existing = store.read_attributes()
    for path in IDENTITY:
        was, now = _look_up(existing, path), _look_up(manifest, path)
        if was != now:
            field = ".".join(path)
            if isinstance(was, dict) and isinstance(now, dict):
                key = next(key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key))
                field, was, now = f"{field}.{key}", was.get(key), now.get(key)
            raise InputError(
                f"{store.location}: was captured with another {field} ({was!r}, now {now!r}); choose another --output, "
                f"or delete this run"
            )
    return resumed


def _look_up(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return json.loads(json.dumps(tree))
