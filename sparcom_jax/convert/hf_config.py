"""From a Hugging Face config.json to a DecoderConfig; refuses every field that it does not know how to honour."""

import json
from pathlib import Path
from typing import Any

from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig

# Fields that do not touch the forward pass of a causal language model in inference.
IGNORED = {
    "_name_or_path", "architectures", "attention_dropout", "aux_loss_alpha", "bos_token_id",
    "cache_implementation", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id", "ep_size", "hidden_dropout",
    "initializer_range", "model_type", "output_router_logits", "pad_token_id", "pretraining_tp", "resid_pdrop",
    "router_aux_loss_coef", "router_jitter_noise", "seq_aux", "torch_dtype", "transformers_version", "use_cache",
}  # fmt: skip


def read_config(directory: Path) -> DecoderConfig:
    """Reads `config.json` of a checkpoint directory.

    Raises:
      InputError: the file is missing or malformed, the architecture is not supported, or a field is set to something
        that the decoder does not do.
    """
    path = directory / "config.json"
    try:
        raw = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: missing; --source must be a Hugging Face model directory") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"{path}: not a JSON object")
    try:
        return translate(raw)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def translate(raw: dict[str, Any]) -> DecoderConfig:
    """Translates the content of a config.json.

    Fields that are left out take the default that transformers gives them.

    Raises:
      InputError: as in `read_config`, without the file's name.
    """
    from transformers import CONFIG_MAPPING

    name = raw.get("model_type")
    if name not in FAMILIES:
        raise InputError(f"model_type {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    family = FAMILIES[name]
    config_class = CONFIG_MAPPING[name]
    _refuse_unknown_fields(raw, family.handled | IGNORED, config_class().to_dict() | family.neutral)
    try:
        hf = config_class.from_dict(raw)
    except Exception as error:  # transformers validates in its own ways, with exceptions of several libraries
        raise InputError(f"refused by transformers: {error}") from error
    return family.translate(hf)


def _refuse_unknown_fields(raw: dict[str, Any], known: frozenset[str] | set[str], neutral: dict[str, Any]) -> None:
    missing = object()
    for field in sorted(raw.keys() - known):
        if raw[field] is None or raw[field] == neutral.get(field, missing):
            continue
        if field in {"id2label", "label2id"}:  # names of classes of a classifier head; there is none
            continue
        raise InputError(f"field {field!r} = {raw[field]!r} is not handled by the decoder")
