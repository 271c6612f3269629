"""What a capture says of itself in the manifest of its run."""

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
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.manifest import (
    CapturedInstructions,
    CapturedModel,
    CapturedTokenizer,
    Devices,
    Manifest,
    Tokens,
)
from sparcom_jax.version import VERSION


def describe_model(model: ModelDir) -> CapturedModel:
    """What the manifest says of the model."""
    config = model.config
    return CapturedModel(
        family=config.family,
        path=str(model.path),
        source=model.manifest["source"],
        digest=model.digest,
        conversion=model.manifest["conversion"],
        checkpoint_dtype=model.dtype,
        parameters=model.manifest["parameters"],
        num_layers=config.num_layers,
        hidden_size=config.width,
        num_experts_per_tok=config.experts.per_token if config.experts else 0,
    )


def describe_tokenizer(model: ModelDir) -> CapturedTokenizer:
    """What the manifest says of the model's tokenizer."""
    special = sorted(set(model.tokenizer().all_special_ids))
    return CapturedTokenizer(digest=model.tokenizer_digest, special_token_ids=special)


def describe_instructions(instructions: InstructionSet, texts: TokenizedSet) -> CapturedInstructions:
    """What the manifest says of the instructions.

    Args:
      instructions: the rows.
      texts: what is fed of them; for scope `generated`, what is continued.
    """
    return CapturedInstructions(
        source=instructions.source,
        digest=instructions.digest,
        count=len(instructions.rows),
        truncated={instructions.rows[row]["id"]: size for row, size in texts.truncated.items()},
    )


def describe_settings(settings: CaptureSettings, template: Template, stop: tuple[int, ...]) -> dict[str, Any]:
    """The settings of a capture, and what they came to.

    Args:
      settings: of the capture.
      template: what stands around an instruction.
      stop: token ids that end a continuation.
    """
    return {
        **asdict(settings),
        "template_digest": template.digest,
        "bos": "as the tokenizer adds it" if template.adds_special else "once, by the template or before it",
        "padding": "never counted, never routed",
        "stop_token_ids": list(stop),
    }


def describe_devices(placement: Placement) -> Devices:
    """What the manifest says of the devices, of which a process has those of a placement."""
    return Devices(
        platform=jax.default_backend(),
        kind=jax.devices()[0].device_kind,
        mesh=dict(placement.mesh.shape),
        kernels=asdict(placement.kernels),
        processes=jax.process_count(),
    )


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that the numbers come from."""
    return {
        "python": platform.python_version(),
        "sparcom_jax": VERSION,
        **{name: version(name) for name in ("jax", "flax", "transformers", "tensorstore")},
    }


def record_tokens(store: Store, texts: TokenizedSet, plan: Plan) -> None:
    """Adds to a run what is known once all tokens are: how many are fed and counted, and how full the batches are."""
    tokens = asdict(Tokens(fed=int(texts.lengths.sum()), counted=int(texts.counted.sum()),
                           slots_filled=round(plan.filled, 6)))  # fmt: skip
    attributes = store.read_attributes() or {}
    if attributes.get("tokens") != tokens:
        store.write_group("", attributes | {"tokens": tokens})


def open_or_create(store: Store, manifest: Manifest) -> bool:
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
        store.write_group("", manifest.to_json())
        existing = store.read_attributes() or {}
    manifest.require_same(existing, store.location)
    return resumed
