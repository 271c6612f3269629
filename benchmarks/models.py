"""What the benchmarks run on: random checkpoints as real Hugging Face directories, and the texts that they read.

torch and transformers are imported only where a checkpoint is made: programs that measure memory use the rest.
"""

import csv
import gzip
import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from sparcom_jax.instructions.rows import InstructionSet, load_instructions

BOS, EOS = "<s>", "</s>"
TEXT_FIELDS = ("instruction", "question", "problem", "text", "prompt")
SENTENCES_FIELD = "source"
CATEGORY = "TEXT"

TOKENS = {"max_position_embeddings": 4096, "bos_token_id": 0, "eos_token_id": 1}
REFERENCE_DENSE = TOKENS | {
    "vocab_size": 32000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
}
REFERENCE_MOE = REFERENCE_DENSE | {
    "num_hidden_layers": 6,
    "moe_intermediate_size": 352,
    "shared_expert_intermediate_size": 1408,
    "num_experts": 60,
    "num_experts_per_tok": 4,
}
SMALL_DENSE = TOKENS | {
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
}
SMALL_MOE = SMALL_DENSE | {
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 176,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "mlp_only_layers": [0],
}


def dense_reference(directory: Path, texts: list[str]) -> Path:
    """Llama-type: 8 layers, D 512, F 1,408, 8 heads."""
    return _llama(directory, texts, REFERENCE_DENSE)


def dense_of_layers(directory: Path, texts: list[str], size: str, layers: int) -> Path:
    """As `dense_reference` or `dense_small`, but of so many layers."""
    fields = REFERENCE_DENSE if size == "reference" else SMALL_DENSE
    return _llama(directory, texts, fields | {"num_hidden_layers": layers})


def moe_reference(directory: Path, texts: list[str]) -> Path:
    """Qwen2-MoE-type: 6 layers, D 512, 60 experts of F 352 of which a token takes 4, a shared expert of F 1,408."""
    return _qwen2_moe(directory, texts, REFERENCE_MOE)


def dense_small(directory: Path, texts: list[str]) -> Path:
    """Llama-type: 4 layers, D 128, F 352, two query heads to a key head, larger weights."""
    return _llama(directory, texts, SMALL_DENSE)


def moe_small(directory: Path, texts: list[str]) -> Path:
    """Qwen2-MoE-type: a dense layer and 3 of 16 experts of F 64 with a shared expert, otherwise as `dense_small`."""
    return _qwen2_moe(directory, texts, SMALL_MOE)


CHECKPOINTS = {
    ("dense", "reference"): dense_reference,
    ("moe", "reference"): moe_reference,
    ("dense", "small"): dense_small,
    ("moe", "small"): moe_small,
}
"""Makers of checkpoints by (family, size): (directory, texts that the tokenizer is trained on) -> directory."""


def save_tokenizer(directory: Path, texts: list[str], vocab_size: int) -> None:
    """Trains a byte-level BPE that puts `<s>` before every text, and saves it as transformers reads it.

    Args:
      directory: where the files go.
      texts: what it is trained on.
      vocab_size: the most tokens that it may have; few texts give fewer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 0)])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def read_texts(instructions: str | Path, count: int = 600, seed: int = 0) -> list[str]:
    """Reads instructions.

    Args:
      instructions: `hexainst`, a JSONL file of instructions, or a directory of public data sets in their native
        formats, of which every file gives the same number of texts, as far as it has them.
      count: how many texts are drawn, without replacement; 0 takes all of them.
      seed: seed of the draw.

    Returns:
      The texts, file by file and in the order of each file.
    """
    directory = Path(instructions)
    if directory.is_dir():
        files = sorted(path for path in directory.rglob("*") if path.is_file())
        sources = [texts for path in files if (texts := [text for text in _native(path) if text.strip()])]
    else:
        sources = [[row["instruction"] for row in load_instructions(instructions).rows]]
    draw = random.Random(seed)
    queue = [
        (turn, source, index)
        for source, texts in enumerate(sources)
        for turn, index in enumerate(draw.sample(range(len(texts)), len(texts)))
    ]
    chosen = sorted(queue)[: count or len(queue)]
    return [sources[source][index] for source, index in sorted((source, index) for _, source, index in chosen)]


def instruction_set(texts: list[str]) -> InstructionSet:
    """Instructions of one category, made of bare texts."""
    rows = [{"id": f"t{i}", "category": CATEGORY, "instruction": text} for i, text in enumerate(texts)]
    return InstructionSet("texts", rows, [CATEGORY])


def _llama(directory: Path, texts: list[str], fields: dict[str, Any]) -> Path:
    from transformers import LlamaConfig

    return _save(directory, texts, LlamaConfig(**fields))


def _qwen2_moe(directory: Path, texts: list[str], fields: dict[str, Any]) -> Path:
    from transformers import Qwen2MoeConfig

    return _save(directory, texts, Qwen2MoeConfig(**fields))


def _save(directory: Path, texts: list[str], config: Any) -> Path:
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            # transformers initialises biases to 0 and norms to 1, which would hide a parameter that is not used.
            if name.endswith(".bias") or "norm" in name:
                torch.nn.init.normal_(parameter, mean=float("norm" in name), std=config.initializer_range)
        model.save_pretrained(directory)
    save_tokenizer(directory, texts, config.vocab_size)
    return directory


def _native(path: Path) -> Iterator[str]:
    """The texts of one file of a public data set; none where its format has no field that is read."""
    name = path.name.removesuffix(".gz")
    with (gzip.open if name != path.name else open)(path, "rt", encoding="utf-8", newline="") as file:
        match Path(name).suffix:
            case ".jsonl":
                yield from (text for line in file for text in _in_objects(json.loads(line)))
            case ".json":
                yield from _in_objects(json.load(file))
            case ".csv":
                yield from (text for row in csv.DictReader(file) for text in _in_objects(row))
            case ".tsv":  # no header; the question comes first, its line breaks written as \n
                yield from (line.split("\t")[0].replace("\\n", "\n") for line in file)


def _in_objects(value: Any) -> Iterator[str]:
    """One text of each object of a JSON value, at whatever depth, that has a field of a known name."""
    if isinstance(value, list):
        for entry in value:
            yield from _in_objects(entry)
    if isinstance(value, dict):
        fields = {str(name).lower(): entry for name, entry in value.items()}
        text = next((fields[name] for name in TEXT_FIELDS if isinstance(fields.get(name), str)), None)
        sentences = fields.get(SENTENCES_FIELD)
        if text is None and isinstance(sentences, list) and len(sentences) > 1:  # what is to be summarised
            text = " ".join(sentences)
        if text is None:
            yield from _in_objects(list(value.values()))
        else:
            yield text
