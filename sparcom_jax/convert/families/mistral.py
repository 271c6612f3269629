"""Mistral (Jiang et al. 2023): a sliding window in every layer, or in none."""

from sparcom_jax.convert.families.family import ATTENTION, MLP, MODEL, PRE_NORMS, SHARED_FIELDS, Family, decoder_config

MISTRAL = Family(SHARED_FIELDS | {"sliding_window"}, decoder_config, PRE_NORMS | ATTENTION | MLP, MODEL)
