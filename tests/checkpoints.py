"""Tiny random checkpoints, saved to disk by transformers in the real format, with a real tokenizer beside them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB = 512
TEXT = [
    "Write a function that returns the sum of two numbers, and say what the answer is.",
    "Summarise the following text in one sentence. Which of the labels fits: positive or negative?",
    "The quick brown fox jumps over the lazy dog 0123456789 times; what is the capital of France?",
]
SMALL = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.2,
    "pad_token_id": None,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
MOE = {"moe_intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 2}
OWN: dict[str, dict[str, Any]] = {
    "gemma2": {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 16, "attn_logit_softcapping": 20.0},
    "gemma3_text": {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 16},
    "mixtral": {"num_local_experts": 8, "intermediate_size": 24},
    "qwen2_moe": MOE | {"shared_expert_intermediate_size": 40},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": MOE | {"head_dim": 16},
    "olmoe": {"num_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 24},
    "deepseek_v2": {
        "n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "n_shared_experts": 2,
        "first_k_dense_replace": 1, "q_lora_rank": 20, "kv_lora_rank": 16, "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8, "v_head_dim": 10,
    },
    "gpt_neox": {"hidden_size": 64},
    "gpt_oss": {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 24, "head_dim": 16,
                "sliding_window": 16},
}  # fmt: skip


def save_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(directory)


def save_model(directory: Path, family: str, dtype: torch.dtype = torch.float32, seed: int = 0, **fields: Any) -> Path:
    """Saves a random model of a family; `fields` are of its config, over small defaults."""
    known = CONFIG_MAPPING[family]().to_dict()
    small = {name: value for name, value in SMALL.items() if name in known}
    config = CONFIG_MAPPING[family](**(small | OWN.get(family, {}) | fields))
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
        # transformers initialises biases to 0 and norms to 1, which would hide a parameter that is not used.
        one = 0.0 if family.startswith("gemma") else 1.0
        for name, parameter in model.named_parameters():
            if "bias" in name or "sinks" in name:
                torch.nn.init.normal_(parameter, mean=0.0, std=0.2)
            elif "norm" in name:
                torch.nn.init.normal_(parameter, mean=one, std=0.2)
        model.to(dtype).save_pretrained(directory)
        save_tokenizer(directory)
    return directory


def llama(directory: Path, **fields: Any) -> Path:
    return save_model(directory, "llama", **fields)


def qwen2_moe(directory: Path, **fields: Any) -> Path:
    return save_model(directory, "qwen2_moe", **fields)
