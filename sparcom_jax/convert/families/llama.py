"""Llama 2, 3 and 3.x (Touvron et al. 2023; Grattafiori et al. 2024)."""

from typing import Any

from sparcom_jax.convert.families.family import ATTENTION, MLP, MODEL, PRE_NORMS, SHARED_FIELDS, Family, decoder_config
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """Biases where the config says so."""
    return decoder_config(hf, mlp_bias=bool(hf.mlp_bias))


LLAMA = Family(SHARED_FIELDS | {"attention_bias", "mlp_bias"}, translate, PRE_NORMS | ATTENTION | MLP, MODEL)
