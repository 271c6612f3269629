"""The config of a study: every step's settings with their defaults, and the models to study."""

from dataclasses import asdict, fields
from typing import Any, TypeVar

from ml_collections import ConfigDict

from sparcom_jax.capture.engine import CaptureSettings
from sparcom_jax.causal.ablate import AblationSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection

T = TypeVar("T")

SHARED = ("batch_tokens", "placement", "model_parallel", "dtype")


def default_config() -> ConfigDict:
    """A config with the default of every field.

    `capture`, `identify` and `ablate` are the fields of `CaptureSettings`, `Selection` and `AblationSettings`;
    `evaluate` and `compare` the keyword arguments of the functions of these names; `pairs` is filled by a study:
    name -> `{"base": ..., "tuned": ...}`, either of which may be left out, or `{"train": {...}}`. Each is a checkpoint
    (a Hugging Face directory, a GGUF file or a hub id), or `{"source": ..., "adapter": ..., "dtype": ...}`, as
    `convert` takes them.
    """
    return ConfigDict({
        "instructions": "hexainst",
        "set_name": "frequency",
        "capture": asdict(CaptureSettings()),
        "identify": asdict(Selection()),
        "evaluate": {"rho": 0.5, "permutations": 1000, "bootstraps": 1000, "strata": 5, "seed": 0},
        "compare": {"rho": 0.5, "permutations": 1000, "bootstraps": 1000, "seed": 0},
        "ablate": {
            name: value for name, value in asdict(AblationSettings()).items() if name not in (*SHARED, "set_name")
        },
        "pairs": {},
    })  # fmt: skip


def shared_with_capture(capture: dict[str, Any]) -> dict[str, Any]:
    """The settings that ablation takes from the section `capture`: where and how the model runs."""
    return {name: capture[name] for name in SHARED}


def build(kind: type[T], values: dict[str, Any], section: str) -> T:
    """Makes a settings object of a section of a config.

    Args:
      kind: the dataclass.
      values: its fields.
      section: name of the section, for messages.

    Raises:
      InputError: a field is not one of the dataclass's.
    """
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise InputError(f"config field {section}.{name} is not known; known: {', '.join(sorted(known))}")
    return kind(**values)
