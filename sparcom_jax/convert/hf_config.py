"""From a Hugging Face config.json to a DecoderConfig; refuses every field that it does not know how to honour.

The rule, by what transformers makes of a field of this `model_type`:

- It declares the field, or its code reads it: the decoder honours the field, or the field is at a value that changes
  nothing, or the config is refused. All such fields are named in one message.
- It neither declares nor reads it: the field cannot change what transformers computes. It is listed and passes.
- `ACTING` names fields that act although no config class declares them.
"""

import copy
import importlib.util
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.convert.families.family import Family
from sparcom_jax.convert.quantised import scheme_of
from sparcom_jax.convert.wrappers import WRAPPERS, text_config
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.strict_json import loads

# Fields that do not touch the forward pass of a causal language model in inference.
IGNORED = {
    "_name_or_path", "architectures", "attention_dropout", "auto_map", "aux_loss_alpha", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id",
    "ep_size", "hidden_dropout", "id2label", "initializer_range", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "output_router_logits", "pad_token_id", "pretraining_tp", "problem_type", "resid_pdrop",
    "return_dict", "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "torch_dtype", "transformers_version",
    "use_cache",
}  # fmt: skip
# What transformers turns into `rope_parameters`, whatever the family declares; `read_rope` judges the outcome.
ROPE_FIELDS = {"partial_rotary_factor", "rope_parameters", "rope_scaling", "rope_theta"}
ORIGINAL = "original_max_position_embeddings"
STRETCHED = ("llama3", "longrope", "yarn")


def _mlx(value: Any) -> str | None:
    return f"quantization = {value!r} (MLX's own quantisation is not handled)"


def _causal(value: Any) -> str | None:
    return None if value is True else f"is_causal = {value!r} (the decoder's attention is causal)"


def _other_weights(value: Any) -> str | None:
    return f"transformers_weights = {value!r} (weights under another name are not handled)"


def _quantization(value: Any) -> str | None:
    try:
        scheme_of(value)
    except InputError as error:
        return str(error)
    return None


ACTING: dict[str, Callable[[Any], str | None]] = {
    "quantization_config": _quantization,
    "compression_config": _quantization,
    "quantization": _mlx,
    "is_causal": _causal,
    "transformers_weights": _other_weights,
}
"""Fields that act although the config class does not declare them: why a value is refused, None where it changes
nothing."""


@dataclass(frozen=True)
class HFConfig:
    """What a config.json says.

    Attributes:
      decoder: what the decoder runs on.
      not_read: fields that transformers does not read either.
      wrapper: `model_type` of the model around the text model, or None.
      quantization: its `quantization_config`, of a scheme that conversion dequantises, or None.
      architectures: names of the model classes that it was saved from.
      own_code: whether it names code of its own, in the place of which transformers' code counts.
    """

    decoder: DecoderConfig
    not_read: tuple[str, ...] = ()
    wrapper: str | None = None
    quantization: dict[str, Any] | None = None
    architectures: tuple[str, ...] = ()
    own_code: bool = False


def read_config(directory: Path) -> HFConfig:
    """Reads `config.json` of a checkpoint directory.

    Raises:
      InputError: the file is missing or malformed, the architecture is not supported, or fields are set to something
        that the decoder does not do.
    """
    path = directory / "config.json"
    try:
        raw = loads(path.read_bytes(), str(path))
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; --source must be a Hugging Face model directory") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a JSON object")
    try:
        return describe(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def translate(raw: dict[str, Any]) -> DecoderConfig:
    """The decoder's config alone, as in `describe`."""
    return describe(raw).decoder


def describe(raw: dict[str, Any]) -> HFConfig:
    """Translates the content of a config.json.

    Fields that are left out take the default that transformers gives them. Of a wrapper around a text model, the text
    model is read.

    Raises:
      InputError: as in `read_config`, without the file's name.
    """
    from transformers import CONFIG_MAPPING

    name = raw.get("model_type")
    wrapper = name if name in WRAPPERS else None
    if wrapper is None and name not in FAMILIES:
        supported = ", ".join([*FAMILIES, *WRAPPERS])
        raise InputError(f"model_type {name!r} is not supported; supported: {supported}")
    try:
        hf = CONFIG_MAPPING[name].from_dict(copy.deepcopy(raw))  # which changes what it is given
    except Exception as error:  # transformers validates in its own ways, with exceptions of several libraries
        raise InputError(f"refused by transformers: {' '.join(str(error).split())}") from error
    fields, outside = raw, {}
    if wrapper:
        hf, fields, name = text_config(hf, raw)
        outside = {field: value for field, value in raw.items() if field in ACTING}
    if name not in FAMILIES:
        raise InputError(f"{wrapper} holds a text model of model_type {name!r}, which is not supported")
    family = FAMILIES[name]
    not_read = _sort_fields({**outside, **fields}, family, type(hf))
    try:
        decoder = replace(family.translate(hf), family=name)
    except InputError:
        raise
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"a field has a value that {name} cannot have: {error!r}") from error
    quantization = raw.get("quantization_config") or raw.get("compression_config")
    architectures = tuple(raw.get("architectures") or ())
    return HFConfig(decoder, not_read, wrapper, quantization, architectures, bool(raw.get("auto_map")))


def _sort_fields(raw: dict[str, Any], family: Family, config_class: Any) -> tuple[str, ...]:
    """Fields that transformers does not read either.

    Raises:
      InputError: it names all fields that act and are not honoured.
    """
    defaults = config_class().to_dict()
    aliases = config_class.attribute_map
    known = family.handled | IGNORED | ROPE_FIELDS
    faults, not_read = [], []
    for field, value in sorted(raw.items()):
        if value is None:
            continue
        if field in ACTING:
            if reason := ACTING[field](value):
                faults.append(reason)
            continue
        if field == ORIGINAL and field not in defaults:
            if reason := _misplaced_original(raw):
                faults.append(reason)
        elif field in known or aliases.get(field) in known:
            if field in aliases and aliases[field] in raw and raw[aliases[field]] != value:
                faults.append(f"{field} = {value!r} and {aliases[field]} = {raw[aliases[field]]!r} are one field")
            faults += [f"{where} = {bad} is not finite" for where, bad in _not_finite(field, value)]
        elif field in defaults or _is_read(config_class.__module__, field):
            if value != (defaults | family.neutral).get(field):
                faults.append(f"{field} = {value!r} is not handled by the decoder")
        else:
            not_read.append(field)
    if faults:
        raise InputError(f"{'field' if len(faults) == 1 else 'fields'} {'; '.join(faults)}")
    return tuple(not_read)


def _misplaced_original(raw: dict[str, Any]) -> str | None:
    """Why a length beside the rope that it is about cannot be honoured: transformers reads it in some places only."""
    rope = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    kind = rope.get("rope_type", rope.get("type", "default")) if isinstance(rope, dict) else "default"
    if kind not in STRETCHED or rope.get(ORIGINAL) == raw[ORIGINAL]:
        return None
    return f"{ORIGINAL} = {raw[ORIGINAL]!r} stands outside of the {kind} rope that needs it"


def _not_finite(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Numbers that are not finite (`NaN`, `Infinity`, 1e999), with where they stand."""
    if isinstance(value, float) and not math.isfinite(value):
        yield name, value
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield from _not_finite(f"{name}.{key}", inner)


def _is_read(config_module: str, field: str) -> bool:
    """Whether the model's code mentions an undeclared field."""
    return (
        re.search(rf"\bconfig\.{re.escape(field)}\b|[\"']{re.escape(field)}[\"']", _source(config_module)) is not None
    )


@lru_cache
def _source(config_module: str) -> str:
    """The source of a model's code and of its config class, read without importing it (it needs torch)."""
    package, _, module = config_module.rpartition(".")
    names = (config_module, f"{package}.{module.replace('configuration_', 'modeling_')}")
    specs = [importlib.util.find_spec(name) for name in names]
    return "\n".join(Path(spec.origin).read_text() for spec in specs if spec is not None and spec.origin is not None)
