"""From the rope fields of a Hugging Face config to a Rope."""

import math
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.models.config import Rope

# What each kind must have, and what it may have.
NEEDED = {
    "default": set[str](),
    "linear": {"factor"},
    "dynamic": {"factor"},
    "yarn": {"factor", "original_max_position_embeddings"},
    "longrope": {"short_factor", "long_factor", "original_max_position_embeddings"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}
OPTIONAL = {
    "dynamic": {"original_max_position_embeddings"},
    "yarn": {"attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"},
    "longrope": {"attention_factor", "factor"},
}
COMMON = {"rope_theta", "rope_type", "type"}
PARTIAL = "partial_rotary_factor"


def read_rope(parameters: dict[str, Any], head_size: int, max_positions: int, *, partial: bool = False) -> Rope:
    """Reads rope parameters as transformers standardises them.

    Args:
      parameters: transformers' `rope_parameters`.
      head_size: dimensions of a head.
      max_positions: `max_position_embeddings`.
      partial: whether the family can turn a part of the dimensions only (`partial_rotary_factor`).

    Raises:
      InputError: a kind or a field that is not handled, or one that is missing.
    """
    kind = parameters.get("rope_type", "default")
    if kind not in NEEDED:
        raise InputError(f"rope_type {kind!r} is not supported; supported: {', '.join(NEEDED)}")
    share = parameters.get(PARTIAL) or 1.0
    known = COMMON | NEEDED[kind] | OPTIONAL.get(kind, set()) | ({PARTIAL} if partial or share == 1.0 else set())
    for field, value in parameters.items():
        if field not in known and value is not None:
            raise InputError(f"rope field {field!r} = {value!r} is not handled for rope_type {kind!r}")
    if missing := sorted(field for field in NEEDED[kind] if parameters.get(field) is None):
        raise InputError(f"rope_type {kind!r} needs {', '.join(missing)}")
    if not isinstance(theta := parameters.get("rope_theta"), int | float) or not theta > 0:
        raise InputError(f"rope field 'rope_theta' = {theta!r} must be a positive number")
    for field in ("factor", "original_max_position_embeddings"):
        if (value := parameters.get(field)) is not None and not value > 0:
            raise InputError(f"rope field {field!r} = {value!r} must be a positive number")
    size = int(head_size * share)
    if size % 2 or size < 2:
        raise InputError(f"{size} dimensions of a head are turned; rotary positions need pairs")
    original = int(parameters.get("original_max_position_embeddings") or max_positions)
    common: dict[str, Any] = {"kind": kind, "theta": float(theta), "size": size}
    if kind != "default":
        common |= {"factor": float(parameters.get("factor") or max_positions / original)}
    if kind == "dynamic":  # transformers stretches from the config's length, whatever this field says
        return Rope(**common, original_positions=max_positions)
    if kind == "llama3":
        return Rope(**common, original_positions=original, low=float(parameters["low_freq_factor"]),
                    high=float(parameters["high_freq_factor"]))  # fmt: skip
    if kind == "yarn":
        return Rope(**common, original_positions=original, low=float(parameters.get("beta_slow") or 1),
                    high=float(parameters.get("beta_fast") or 32), scale=_yarn_scale(parameters, common["factor"]),
                    whole_dimensions=bool(parameters.get("truncate", True)))  # fmt: skip
    if kind == "longrope":
        short, long = (tuple(map(float, parameters[field])) for field in ("short_factor", "long_factor"))
        if not len(short) == len(long) == size // 2:
            raise InputError(f"rope fields short_factor and long_factor must have {size // 2} numbers each")
        return Rope(**common, original_positions=original, short_factors=short, long_factors=long,
                    scale=_longrope_scale(parameters, common["factor"], original))  # fmt: skip
    return Rope(**common)


def yarn_magnitude(factor: float, weight: float) -> float:
    """By how much YaRN sharpens attention over a stretched context (Peng et al. 2023, equation 22)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _yarn_scale(parameters: dict[str, Any], factor: float) -> float:
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if above and below:
        return yarn_magnitude(factor, float(above)) / yarn_magnitude(factor, float(below))
    return yarn_magnitude(factor, 1.0)


def _longrope_scale(parameters: dict[str, Any], factor: float, original: int) -> float:
    if parameters.get("attention_factor") is not None:
        return float(parameters["attention_factor"])
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
