"""The shapes of released models that rates are measured at, and weights for them that never were on the host."""

import math
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from sparcom_jax.convert.hf_config import translate
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, abstract_params

Fields = dict[str, Any]
"""The fields of a Hugging Face config.json."""

LLAMA_3_1_8B: Fields = {
    "model_type": "llama",
    "dtype": "bfloat16",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
}
QWEN1_5_MOE_A2_7B: Fields = {
    "model_type": "qwen2_moe",
    "dtype": "bfloat16",
    "vocab_size": 151936,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "moe_intermediate_size": 1408,
    "shared_expert_intermediate_size": 5632,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "norm_topk_prob": False,
    "decoder_sparse_step": 1,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "rope_theta": 1000000.0,
    "use_sliding_window": False,
    "tie_word_embeddings": False,
}
GPT_OSS_20B: Fields = {
    "model_type": "gpt_oss",
    "dtype": "bfloat16",
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "attention_bias": True,
    "hidden_act": "silu",
    "swiglu_limit": 7.0,
    "swiglu_alpha": 1.702,  # no field of the published file: older transformers have it in their code
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "rope_theta": 150000,
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
    "tie_word_embeddings": False,
}
SHAPES = {"Llama-3.1-8B": LLAMA_3_1_8B, "Qwen1.5-MoE-A2.7B": QWEN1_5_MOE_A2_7B, "gpt-oss-20b": GPT_OSS_20B}
"""The shapes by the name of the model."""

SMALL_LAYERS = 4
SMALL: Fields = {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 192,
    "moe_intermediate_size": 96,
    "shared_expert_intermediate_size": 192,
    "num_experts": 16,
    "num_local_experts": 16,
    "num_attention_heads": 8,
    "head_dim": 16,
    "sliding_window": 16,
}
"""What `small` changes of the fields that a model has, beside its layers and its key heads."""

SMALL_STD = 0.02
"""Standard deviation of parameters whose size has no bearing on that of the activations."""


def decoder_config(fields: Fields, layers: int | None = None) -> DecoderConfig:
    """What the decoder runs on, of so many layers; None takes all of them."""
    return translate(fields if layers is None else with_layers(fields, layers))


def with_layers(fields: Fields, layers: int) -> Fields:
    """The same model cut to its first `layers` layers, for a card with less memory."""
    whole = fields["num_hidden_layers"]
    cut = {name: value[:layers] for name, value in fields.items() if isinstance(value, list) and len(value) == whole}
    return fields | cut | {"num_hidden_layers": layers}


def small(fields: Fields) -> Fields:
    """The same kind of model in a size for CPU: as many experts of a token, and query heads of a key head."""
    per_key_head = fields["num_attention_heads"] // fields["num_key_value_heads"]
    changed = {name: value for name, value in SMALL.items() if name in fields}
    changed["num_key_value_heads"] = SMALL["num_attention_heads"] // per_key_head
    return with_layers(fields, SMALL_LAYERS) | changed


def parameter_bytes(config: DecoderConfig, dtype: str) -> int:
    """Bytes of all parameters in a dtype, the head among them."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config))) * jnp.dtype(dtype).itemsize


def random_params(config: DecoderConfig, dtype: str, shardings: Any, seed: int = 0) -> Params:
    """Makes random weights with which activations stay finite through all layers, where they are to lie.

    Beside the weights, the devices need room for a layer of the largest leaf, or for an embedding, in float32.

    Args:
      config: the model.
      dtype: of all leaves.
      shardings: a tree like the parameters: where each leaf lies.
      seed: the same seed gives the same weights.

    Returns:
      A tree like `abstract_params(config)`.
    """
    paths, tree = jax.tree.flatten_with_path(abstract_params(config))
    # Measured on CPU: the default generator takes twice as long to compile.
    keys = jax.random.split(jax.random.key(seed, impl="rbg"), len(paths))
    leaves = []
    for (path, leaf), key, sharding in zip(paths, keys, jax.tree.leaves(shardings), strict=True):
        mean, std = _distribution([str(entry.key) for entry in path], leaf.shape, config)
        keyed = jax.random.split(key, leaf.shape[0]) if leaf.ndim > 2 else key
        leaves.append(_normal(leaf.shape, dtype, sharding)(keyed, mean, std))
    params: Params = jax.tree.unflatten(tree, leaves)
    return params


def _distribution(path: list[str], shape: tuple[int, ...], config: DecoderConfig) -> tuple[float, float]:
    """Mean and standard deviation of a leaf: what a projection makes of inputs of size 1 is of size 1."""
    match path[-1]:
        case "scale":
            return float(config.norm != "rms_plus_one"), 0.0
        case name if name.endswith("bias") or name == "sinks" or path[-2] == "router":
            return 0.0, SMALL_STD
        case name:
            return 0.0, 1 / math.sqrt(shape[-1] if name == "embedding" else shape[-2])


@lru_cache
def _normal(shape: tuple[int, ...], dtype: str, sharding: jax.sharding.Sharding) -> Any:
    """Compiles (keys, mean, standard deviation) -> a leaf; where it has layers, each has a key."""

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], mean: Float[Array, ""], std: Float[Array, ""]) -> Array:
        return (mean + std * jax.random.normal(key, shape, jnp.float32)).astype(dtype)

    def make(keys: PRNGKeyArray, mean: Float[Array, ""], std: Float[Array, ""]) -> Array:
        if len(shape) < 3:
            return draw(keys, shape, mean, std)
        # Layer by layer: the float32 of all experts of a model would not fit beside it.
        return jax.lax.map(lambda key: draw(key, shape[1:], mean, std), keys)

    return jax.jit(make, out_shardings=sharding)
