"""Small random models of five families on disk, and texts for them, of which every token is known.

The sizes are multiples of 16, as matrix units like them; weights are drawn wide, so that activations are lively. A word
is the number of its token: what is written is what the model reads.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int32
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB = 512
BOS, EOS = 0, 1
SPREAD = 0.2

SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "initializer_range": SPREAD,
    "pad_token_id": None,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}
OWN: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 3},
    "qwen2_moe": {
        "mlp_only_layers": [0], "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
    },
    "gemma2": {"num_hidden_layers": 3, "head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 64},
    "deepseek_v2": {
        "num_key_value_heads": 4, "first_k_dense_replace": 1, "n_routed_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 32, "n_shared_experts": 2, "q_lora_rank": 32, "kv_lora_rank": 32,
        "qk_nope_head_dim": 16, "qk_rope_head_dim": 16, "v_head_dim": 16,
    },
    "gpt_oss": {
        "num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 64, "head_dim": 16, "sliding_window": 64,
        "swiglu_limit": 7.0,  # released configs name it; transformers has it in its config only from 5.24 on
        "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 8.0,
                            "original_max_position_embeddings": 128, "truncate": False},
    },
}  # fmt: skip

LENGTHS = (1, 2, 3, 5, 8, 13, 17, 31, 32, 33, 47, 48, 49, 60, 63, 64, *range(201, 322, 10))
"""Tokens of the texts: one of a single token, and many longer than any window, which share batches of one shape."""
BATCH_TOKENS = 2048
"""Two batches hold the texts of `LENGTHS`."""


def save(directory: Path, family: str) -> Path:
    """Saves a random model of a family, in float32, with its tokenizer.

    Args:
      directory: where the files go.
      family: a key of `OWN`.
    """
    known = CONFIG_MAPPING[family]().to_dict()
    fields = {name: value for name, value in SIZES.items() if name in known} | OWN[family]
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**fields), dtype=torch.float32)
        # transformers initialises biases to 0 and norms to 1, which would hide a parameter that is not used.
        usual = 0.0 if family.startswith("gemma") else 1.0
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name or "sinks" in name:
                torch.nn.init.normal_(parameter, mean=usual if "norm" in name else 0.0, std=SPREAD)
        model.save_pretrained(directory)
        begin, end = "<s>", "</s>"
        words = {begin: BOS, end: EOS} | {str(token): token for token in range(EOS + 1, VOCAB)}
        read = Tokenizer(models.WordLevel(words, unk_token=begin))
        read.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=read, bos_token=begin, eos_token=end)
        tokenizer.save_pretrained(directory)
    return directory


def texts(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[Int32[np.ndarray, "_"]]:
    """Random texts of these lengths, as token ids."""
    random = np.random.default_rng(seed)
    return [random.integers(EOS + 1, VOCAB, length, np.int32) for length in lengths]


def written(ids: Int32[np.ndarray, "_"]) -> str:
    """A text in words."""
    return " ".join(map(str, ids.tolist()))
