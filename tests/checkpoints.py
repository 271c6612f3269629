"""Tiny random checkpoints, saved to disk by transformers in the real format, with a real tokenizer beside them."""

import warnings
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedTokenizerFast,
    Qwen2MoeConfig,
)

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
}
MOE = {
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 40,
    "num_experts": 8,
    "num_experts_per_tok": 2,
}


def save_tokenizer(directory: Path) -> None:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCAB, special_tokens=["<s>", "</s>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(directory)


def save_model(directory: Path, config: Any, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config)
        for name, parameter in model.named_parameters():
            # transformers initialises biases to 0 and norms to 1, which would hide a parameter that is not used.
            if name.endswith(".bias") or "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=0.2)
        model.to(dtype).save_pretrained(directory)
        save_tokenizer(directory)
    return directory


def llama(directory: Path, **fields: Any) -> Path:
    return save_model(directory, LlamaConfig(**(SMALL | fields)))


def qwen2_moe(directory: Path, **fields: Any) -> Path:
    return save_model(directory, Qwen2MoeConfig(**(SMALL | MOE | fields)))
