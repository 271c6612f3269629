"""The demo: a real language model beside a Mixture-of-Experts pair trained from scratch, and the whole analysis.

    python launch/analyze.py --config=configs/demo.py --output=outputs/demo

The real model is SmolLM2-135M-Instruct, from the GGUF file that `make weights` brings; where it is not there, a dense
pair trained from scratch stands in, and the report says so. Those models read the Python standard library (base) and
learn from the instructions that ship with the package (tuned); this small and this briefly trained, they do not follow
instructions. The result is outputs/demo/report.html. Measured on 2 CPU cores: 7.5 min.
"""

from pathlib import Path

from ml_collections import ConfigDict

from sparcom_jax.settings import default_config

WEIGHTS = Path(".cache/SmolLM2-135M-Instruct.Q4_1.gguf")
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
    config.pairs = ConfigDict({"moe": {"train": {"fields": {"model_type": "qwen2_moe", **COMMON, **MOE}, **TRAINING}}})
    if WEIGHTS.is_file():
        config.pairs.smollm2 = {"tuned": str(WEIGHTS)}
    else:
        config.pairs.dense = {"train": {"fields": {"model_type": "llama", **COMMON}, **TRAINING}}
        config.note = (
            f"{WEIGHTS} was not there (make weights brings it): a tiny dense pair trained from scratch stands in for a "
            "real language model."
        )
    config.instructions = "hexainst:48"
    config.capture.template = "chat"
    config.evaluate.permutations = config.compare.permutations = 500
    config.evaluate.bootstraps = config.compare.bootstraps = 500
    config.select.share = 0.01
    config.attribute.per_category = 4
    config.explore.top, config.explore.examples, config.explore.texts = 5, 4, True
    config.ablate.per_category, config.ablate.draws = 5, 3
    return config
