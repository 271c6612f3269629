"""The config of a study: every step's settings with their defaults, and the models to study."""

import json
from collections.abc import Collection, Iterable
from dataclasses import asdict
from typing import Any, TypeVar

from ml_collections import ConfigDict
from ml_collections.config_flags import config_path

from sparcom_jax.capture.settings import CaptureSettings
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
        "ablate": {name: value for name, value in asdict(AblationSettings()).items() if name not in SHARED},
        "pairs": {},
    })  # fmt: skip


def checked(config: ConfigDict) -> dict[str, Any]:
    """A config as plain values, once it has all the fields of `default_config`, no others, and of the same types.

    Raises:
      InputError: it names the field at fault.
    """
    try:
        values: dict[str, Any] = json.loads(config.to_json())  # in the order of the file, which `to_dict` does not keep
    except TypeError as error:
        raise InputError(f"the config cannot be recorded: {error}") from error
    default = default_config().to_dict()
    parts: dict[str, tuple[Any, dict[str, Any]]] = {"": (values, default)}
    parts |= {f"{name}.": (values.get(name), part) for name, part in default.items() if part and type(part) is dict}
    for prefix, (given, wanted) in parts.items():
        if lacking := wanted.keys() - (given or {}).keys():
            raise InputError(f"config field {prefix}{min(lacking)} is missing")
        _require_like(given, wanted, prefix)
    return values


def require_read(overrides: Iterable[str], read: Collection[str], reads: str) -> None:
    """Refuses flags that override fields of a config which the command does not read.

    Args:
      overrides: the fields, as `override_values` of the flag names them.
      read: the fields that are read, `section.field`.
      reads: which these are, in words, for the message.

    Raises:
      InputError: it names the flag.
    """
    for override in overrides:
        name = ".".join(map(str, config_path.split(override)))
        if name not in read and not any(field.startswith(f"{name}.") for field in read):
            raise InputError(f"--config.{name} has no effect on this command, which reads {reads}")


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
      InputError: a field is not one of the dataclass's, or of another type.
    """
    _require_like(values, asdict(kind()), f"{section}.")  # type: ignore[call-overload]
    return kind(**values)


def _require_like(values: dict[str, Any], default: dict[str, Any], prefix: str) -> None:
    """Refuses fields that are unknown or have another type than their default."""
    for name, value in values.items():
        if name not in default:
            raise InputError(f"config field {prefix}{name} is not known; known: {', '.join(sorted(default))}")
        kind = type(default[name])
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise InputError(f"config field {prefix}{name} must be of type {kind.__name__}, got {value!r}")
