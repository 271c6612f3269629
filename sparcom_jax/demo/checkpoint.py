"""Genuine Hugging Face directories from what is trained here: tokenizer, config and safetensors, without torch."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from sparcom_jax.convert.export import save_tensors
from sparcom_jax.convert.hf_config import translate
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2_moe": "Qwen2MoeForCausalLM"}
BEGIN, END = "<s>", "</s>"
CHAT = "{% for message in messages %}{{ bos_token if loop.first }}{{ message['content'] }}\n{% endfor %}"
"""The chat template: a line for each turn."""


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer that begins every text with `<s>`.

    Args:
      texts: what to train on.
      vocab_size: number of tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[BEGIN, END], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    begin = tokenizer.token_to_id(BEGIN)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, begin)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, chat_template=CHAT)


def decoder_config(fields: dict[str, Any]) -> DecoderConfig:
    """The decoder of a Hugging Face config that is given by its fields, `model_type` among them."""
    return translate(_hf_config(fields).to_dict())


def save_checkpoint(
    directory: Path, fields: dict[str, Any], params: Params, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Writes a model directory as transformers reads it; it appears whole or not at all.

    Args:
      directory: the directory to make.
      fields: of the Hugging Face config, `model_type` among them.
      params: the decoder's parameters.
      tokenizer: the tokenizer.
    """
    partial = directory.with_name(f".{directory.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    config = _hf_config(fields)
    config.architectures = [ARCHITECTURES[fields["model_type"]]]
    config.dtype = "float32"
    config.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    save_tensors(decoder_config(fields), params, partial)
    partial.rename(directory)


def _hf_config(fields: dict[str, Any]) -> Any:
    rest = {name: value for name, value in fields.items() if name != "model_type"}
    return CONFIG_MAPPING[fields["model_type"]](**rest, bos_token_id=0, eos_token_id=1)
