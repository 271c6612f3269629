"""The demo: two tiny pairs trained from scratch, a dense and a Mixture-of-Experts one, and the whole analysis.

    python launch/analyze.py --config=configs/demo.py --output=outputs/demo

Takes 5 to 10 minutes on 2 CPU cores, nothing is downloaded: the base models read the Python standard library, the tuned
ones learn from the instructions that ship with the package. The result is outputs/demo/report.html. Models this small
and this briefly trained do not follow instructions: the demo shows that every step works on genuine checkpoints.
"""

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config

COMMON = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
MOE = {
    "moe_intermediate_size": 48,
    "shared_expert_intermediate_size": 64,
    "num_experts": 8,
    "num_experts_per_tok": 2,
    "norm_topk_prob": True,
    "mlp_only_layers": [0],
}
TRAINING = {"batch_tokens": 1024, "base_steps": 75, "tuned_steps": 75, "learning_rate": 3e-3}


def get_config() -> ConfigDict:
    """The demo's config."""
    config = default_config()
    config.pairs = ConfigDict({
        "dense": {"train": {"fields": {"model_type": "llama", **COMMON}, **TRAINING}},
        "moe": {"train": {"fields": {"model_type": "qwen2_moe", **COMMON, **MOE}, **TRAINING}},
    })  # fmt: skip
    config.evaluate.permutations = config.compare.permutations = 500
    config.evaluate.bootstraps = config.compare.bootstraps = 500
    config.select.size, config.select.expert_size = 40, 4
    config.attribute.per_category = 40
    config.explore.top, config.explore.texts = 10, True
    config.ablate.per_category = 4
    config.ablate.draws = 20
    return config
