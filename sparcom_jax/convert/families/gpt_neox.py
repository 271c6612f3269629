"""GPT-NeoX and Pythia (Black et al. 2022; Biderman et al. 2023): LayerNorm, no second projection, parallel residual."""

from collections.abc import Callable
from typing import Any

import numpy as np

from sparcom_jax.convert.families.family import (
    AS_IS,
    SHARED_FIELDS,
    TRANSPOSED,
    Family,
    Names,
    Part,
    decoder_config,
)
from sparcom_jax.convert.rope import read_rope
from sparcom_jax.models.config import DecoderConfig


def translate(hf: Any) -> DecoderConfig:
    """Attention and MLP read the same residual stream, unless the config says otherwise."""
    head_size = hf.hidden_size // hf.num_attention_heads
    return decoder_config(
        hf,
        head_size=head_size,
        ropes=(read_rope(hf.rope_parameters, head_size, hf.max_position_embeddings, partial=True),),
        norm="layer",
        norm_epsilon=hf.layer_norm_eps,
        parallel=bool(hf.use_parallel_residual),
        gated=False,
        mlp_bias=True,
    )


def _heads(which: int) -> Callable[[DecoderConfig], np.ndarray]:
    """The tensor holds queries, keys and values of one head after the other."""

    def rows(config: DecoderConfig) -> np.ndarray:
        return np.arange(3 * config.width).reshape(config.heads, 3, config.head_size)[:, which].reshape(-1)

    return rows


def _kernel(which: int) -> Part:
    return Part(lambda c: (3 * c.width, c.width), _heads(which))


def _bias(which: int) -> Part:
    return Part(lambda c: (3 * c.width,), _heads(which), transposed=AS_IS)


MODEL: Names = {
    "embed/embedding": ("gpt_neox.embed_in.weight", AS_IS),
    "norm/scale": ("gpt_neox.final_layer_norm.weight", AS_IS),
    "norm/bias": ("gpt_neox.final_layer_norm.bias", AS_IS),
    "head/kernel": ("embed_out.weight", TRANSPOSED),
}
LAYER: Names = {
    "attention_norm/scale": ("input_layernorm.weight", AS_IS),
    "attention_norm/bias": ("input_layernorm.bias", AS_IS),
    "mlp_norm/scale": ("post_attention_layernorm.weight", AS_IS),
    "mlp_norm/bias": ("post_attention_layernorm.bias", AS_IS),
    "attention/q/kernel": ("attention.query_key_value.weight", _kernel(0)),
    "attention/k/kernel": ("attention.query_key_value.weight", _kernel(1)),
    "attention/v/kernel": ("attention.query_key_value.weight", _kernel(2)),
    "attention/q/bias": ("attention.query_key_value.bias", _bias(0)),
    "attention/k/bias": ("attention.query_key_value.bias", _bias(1)),
    "attention/v/bias": ("attention.query_key_value.bias", _bias(2)),
    "attention/o/kernel": ("attention.dense.weight", TRANSPOSED),
    "attention/o/bias": ("attention.dense.bias", AS_IS),
    "mlp/gate/kernel": ("mlp.dense_h_to_4h.weight", TRANSPOSED),
    "mlp/gate/bias": ("mlp.dense_h_to_4h.bias", AS_IS),
    "mlp/down/kernel": ("mlp.dense_4h_to_h.weight", TRANSPOSED),
    "mlp/down/bias": ("mlp.dense_4h_to_h.bias", AS_IS),
}

GPT_NEOX = Family(
    (SHARED_FIELDS - {"num_key_value_heads", "head_dim", "rms_norm_eps"}) | {
        "attention_bias", "layer_norm_eps", "rotary_emb_base", "rotary_pct", "use_parallel_residual",
    },
    translate, LAYER, MODEL, layer_prefix="gpt_neox.layers.{layer}.",
)  # fmt: skip
