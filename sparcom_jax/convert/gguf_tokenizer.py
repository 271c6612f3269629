"""The tokenizer and the chat template that a GGUF file holds, as files of a Hugging Face tokenizer."""

from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, pre_tokenizers, processors

from sparcom_jax.errors import InputError

# How text is split before merging, by the file's name for it. transformers knows the first kind; the others are GPT-2's
# way, after single digits are cut off or not, and those of `SPLITS`.
KNOWN_TO_TRANSFORMERS = {
    "dbrx", "deepseek-r1-qwen", "falcon3", "gpt-4o", "kormo", "llama-bpe", "llama-v3", "llama3", "megrez", "pixtral",
    "qwen2", "smaug-bpe", "tekken",
}  # fmt: skip
GPT2 = {"gpt-2", "jais", "mpt", "olmo", "phi-2", "roberta-bpe", "trillion"}
DIGITS_THEN_GPT2 = {"codeshell", "command-r", "refact", "smollm", "starcoder"}
# Vocabularies whose whole words go before their merges.
WORDS_FIRST = {"dbrx", "falcon3", "llama-bpe", "llama-v3", "llama3", "pixtral", "smaug-bpe", "tekken"}
BEGINS_BY_DEFAULT = WORDS_FIRST - {"dbrx", "smaug-bpe"}

_LETTERS = (
    "A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌ"
    "ῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻"
    "𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃"
)
SPLITS = {  # one after another, each on what the one before it left
    "deepseek-llm": ("[\r\n]", rf"\s?[{_LETTERS}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+",
                     r"\p{N}+"),
    "deepseek-coder": ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}"),
}  # fmt: skip
KEYS = {
    "model": "tokenizer_type", "pre": "pre_tokenizer_type", "tokens": "tokens", "scores": "scores",
    "token_type": "token_type", "merges": "merges",
}  # fmt: skip
SPECIAL = {"bos_token": "tokenizer.ggml.bos_token_id", "eos_token": "tokenizer.ggml.eos_token_id",
           "unk_token": "tokenizer.ggml.unknown_token_id", "pad_token": "tokenizer.ggml.padding_token_id"}  # fmt: skip


def save_tokenizer(architecture: str, metadata: dict[str, Any], directory: Path) -> None:
    """Writes the tokenizer of a GGUF file.

    Args:
      architecture: llama.cpp's name of the model's architecture.
      metadata: the file's keys.
      directory: where the tokenizer's files go.

    Raises:
      InputError: the file has no tokenizer, or one of a kind that is not handled.
    """
    from transformers import PreTrainedTokenizerFast

    kind, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if kind not in ("gpt2", "llama"):
        raise InputError(f"tokenizer.ggml.model {kind!r} is not handled; handled: gpt2, llama")
    backend = _byte_level(architecture, metadata, pre) if kind == "gpt2" else _sentencepiece(architecture, metadata)
    tokens = metadata["tokenizer.ggml.tokens"]
    special = {name: tokens[metadata[key]] for name, key in SPECIAL.items() if key in metadata}
    default = pre in BEGINS_BY_DEFAULT if kind == "gpt2" else True
    begins = bool(metadata.get("tokenizer.ggml.add_bos_token", default)) and "bos_token" in special
    ends = bool(metadata.get("tokenizer.ggml.add_eos_token", False)) and "eos_token" in special
    if begins or ends:
        used = [special[name] for name, there in (("bos_token", begins), ("eos_token", ends)) if there]
        pattern = [*(used[:1] if begins else []), "$A", *(used[-1:] if ends else [])]
        template = processors.TemplateProcessing(
            single=" ".join(pattern), special_tokens=[(one, tokens.index(one)) for one in used]
        )
        old = backend.post_processor
        backend.post_processor = processors.Sequence([old, template]) if old is not None else template
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        chat_template=metadata.get("tokenizer.chat_template"),
        **special,
    )
    tokenizer.save_pretrained(directory)


def _byte_level(architecture: str, metadata: dict[str, Any], pre: Any) -> Tokenizer:
    if pre not in KNOWN_TO_TRANSFORMERS | GPT2 | DIGITS_THEN_GPT2 | SPLITS.keys():
        raise InputError(f"tokenizer.ggml.pre {pre!r} is not handled")
    backend = _built(architecture, metadata)
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS)
    if pre in DIGITS_THEN_GPT2:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), level])
    elif pre in SPLITS:
        splits = [pre_tokenizers.Split(Regex(one), behavior="isolated") for one in SPLITS[pre]]
        backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, level])
    elif pre in GPT2:
        backend.pre_tokenizer = level
    if pre in WORDS_FIRST:
        backend.model.ignore_merges = True
    return backend


def _sentencepiece(architecture: str, metadata: dict[str, Any]) -> Tokenizer:
    backend = _built(architecture, metadata)
    backend.post_processor = None
    if architecture not in ("gemma2", "gemma3") and metadata.get("tokenizer.ggml.add_space_prefix") is False:
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    return backend


def _built(architecture: str, metadata: dict[str, Any]) -> Tokenizer:
    """The vocabulary and its merges, as transformers builds them of a GGUF file."""
    from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer

    described = {ours: metadata[f"tokenizer.ggml.{key}"] for key, ours in KEYS.items()
                 if f"tokenizer.ggml.{key}" in metadata}  # fmt: skip
    try:
        backend: Tokenizer = convert_gguf_tokenizer(architecture, described)[0]
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise InputError(f"the tokenizer cannot be built: {error!r}") from error
    return backend
