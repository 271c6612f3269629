"""A checkpoint as conversion reads it: whatever it was written by, its config and tensors in one form."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparcom_jax.convert.adapter import CONFIG as ADAPTER_CONFIG
from sparcom_jax.convert.adapter import merged, open_adapter
from sparcom_jax.convert.families import FAMILIES
from sparcom_jax.convert.files import TensorFiles, open_files
from sparcom_jax.convert.gguf_tokenizer import save_tokenizer
from sparcom_jax.convert.hf_config import HFConfig, describe, read_config
from sparcom_jax.convert.names import IGNORED_TENSORS, embedding_and_head, expected_tensors
from sparcom_jax.convert.quantised import dequantised, scheme_of
from sparcom_jax.convert.tensors import Derived, Tensors, renamed
from sparcom_jax.convert.wrappers import text_name
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.progress import say

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "vocab.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
)  # fmt: skip
COPIED = ("config.json", "generation_config.json", *TOKENIZER_FILES)
DTYPES = ("bfloat16", "float32")
HEADS_OF_OTHERS = ("score.", "classifier.", "qa_outputs.", "v_head.")
"""What classifiers and reward models have in the place of an output head."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint, opened.

    Attributes:
      source: what the user named.
      hf: what its config says.
      config: what the decoder runs on.
      tensors: its tensors, in floating point, under the names of the family.
      made: what was done to the tensors, as it is recorded.
      write_files: writes config and tokenizer into a directory.
    """

    source: str
    hf: HFConfig
    config: DecoderConfig
    tensors: Tensors
    made: dict[str, Any]
    write_files: Callable[[Path], None]


def open_checkpoint(path: Path, dtype: str | None, adapter: Path | None) -> Checkpoint:
    """Opens a checkpoint directory or a GGUF file, and merges an adapter into it where one is given.

    Args:
      path: a Hugging Face directory, or a GGUF file.
      dtype: what quantised tensors are turned into; None takes float32 for GGUF, else the config's own dtype.
      adapter: a directory with a LoRA adapter.

    Raises:
      InputError: anything in it is at fault.
    """
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is not supported; supported: {', '.join(DTYPES)}")
    try:
        checkpoint = _from_gguf(path, dtype or "float32") if path.suffix == ".gguf" else _from_directory(path, dtype)
        if adapter is not None:
            checkpoint = _with_adapter(checkpoint, adapter)
    except InputError as error:
        named = str(error).startswith((str(path), str(adapter)))
        raise error if named else InputError(f"{path}: {error}") from error
    if checkpoint.hf.own_code:
        say("config.json: auto_map: code that comes with a checkpoint is never run; transformers has its own")
    if checkpoint.hf.not_read:
        say(f"config.json: not read by transformers either: {', '.join(checkpoint.hf.not_read)}")
    for left in checkpoint.made["tensors_left"][:1]:
        say(f"{len(checkpoint.made['tensors_left'])} tensors are left, {left} is the first")
    return checkpoint


@dataclass(frozen=True)
class Directory:
    """A Hugging Face directory, opened; its tensors are as they lie in the files.

    Attributes:
      hf: what its config says.
      config: what the decoder runs on.
      files: its tensors, under their own names.
      names: under the names of the family, those of the text model's tensors.
      left: tensors that are not the text model's.
    """

    hf: HFConfig
    config: DecoderConfig
    files: TensorFiles
    names: dict[str, str]
    left: list[str]

    @property
    def tensors(self) -> Tensors:
        """The text model's tensors, under the names of the family."""
        return Derived(self.files, {name: renamed(self.files, own) for name, own in self.names.items()})


def open_directory(directory: Path) -> Directory:
    """Opens a Hugging Face directory.

    Raises:
      InputError: its config or its files are at fault, or it holds something else.
    """
    if (directory / ADAPTER_CONFIG).exists() and not (directory / "config.json").exists():
        raise InputError(f"{directory}: is a LoRA adapter; give its base model as --source, and it as --adapter")
    if (files_of_gguf := sorted(directory.glob("*.gguf"))) and not (directory / "config.json").exists():
        raise InputError(f"{directory}: has GGUF files; give one as --source: {first_of(files_of_gguf)}")
    hf = read_config(directory)
    files = open_files(directory)
    names, config, left = _named(files, hf)
    return Directory(hf, config, files, names, left)


def _from_directory(directory: Path, dtype: str | None) -> Checkpoint:
    opened = open_directory(directory)
    hf, config, tensors = opened.hf, opened.config, opened.tensors
    say(f"reading {first_of(opened.files.files)}")
    made: dict[str, Any] = {
        "files": opened.files.files, "not_read": list(hf.not_read), "tensors_left": opened.left
    }  # fmt: skip
    if hf.wrapper:
        made["text_model_of"] = hf.wrapper
    if hf.quantization is not None:
        target = dtype or _own_dtype(directory)
        tensors, quantised = dequantised(tensors, hf.quantization, target)
        made["dequantised"] = {"scheme": scheme_of(hf.quantization), "tensors": len(quantised), "dtype": target}
        say(f"{len(quantised)} tensors are dequantised from {scheme_of(hf.quantization)} to {target}")
    elif dtype is not None:
        raise InputError("--dtype is for quantised checkpoints; the tensors of this one are stored as they are")

    def write_files(output: Path) -> None:
        for name in COPIED:
            if (directory / name).exists():
                shutil.copyfile(directory / name, output / name)

    return Checkpoint(str(directory), hf, config, tensors, made, write_files)


def _own_dtype(directory: Path) -> str:
    raw = json.loads((directory / "config.json").read_text())
    named = str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    return named if named in (*DTYPES, "float16") else "bfloat16"


def _named(files: Tensors, hf: HFConfig) -> tuple[dict[str, str], DecoderConfig, list[str]]:
    """The names of the model's tensors by the family's, its config, and the tensors that are not the text model's.

    Buffers that follow from the config are dropped. What was saved without its output head (an embedding model, a
    classifier) may lack the prefix of the names and the head.
    """
    names: dict[str, str] = {}
    left = []
    for name in sorted(files.names):
        if IGNORED_TENSORS.search(name):
            continue
        text = text_name(name) if hf.wrapper else name
        if text is None or (_headless(hf) and name.startswith(HEADS_OF_OTHERS)):
            left.append(name)
        else:
            names[text] = name
    config = hf.decoder
    _, head = embedding_and_head(config)
    prefix = FAMILIES[config.family].layer_prefix.partition(".")[0] + "."
    if not any(name.startswith(prefix) for name in names):
        names = {name if name == head else prefix + name: old for name, old in names.items()}
    if _headless(hf) and not config.tied_embeddings and head not in names:
        config = replace(config, head=False)
    return names, config, left


def _headless(hf: HFConfig) -> bool:
    """Whether the classes that the model was saved from have no output head for tokens."""
    kinds = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
    return bool(hf.architectures) and not any(name.endswith(kinds) for name in hf.architectures)


def _from_gguf(path: Path, dtype: str) -> Checkpoint:
    # Needs a package that no other checkpoint does.
    from sparcom_jax.convert.gguf import hf_tensors, open_gguf

    gguf = open_gguf(path, dtype)
    raw = gguf.config()
    hf = describe(raw)
    tensors, left = hf_tensors(gguf, hf.decoder, expected_tensors(hf.decoder), dtype)
    if left:
        raise InputError(f"tensors that are not handled: {first_of(left)}")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(gguf.kinds.items()))
    say(f"reading {first_of(one.name for one in gguf.paths)}: {kinds}, dequantised to {dtype}")
    made = {
        "files": [one.name for one in gguf.paths],
        "not_read": [],
        "tensors_left": [],
        "dequantised": {"scheme": "gguf", "tensors": dict(sorted(gguf.kinds.items())), "dtype": dtype},
    }

    def write_files(output: Path) -> None:
        (output / "config.json").write_text(json.dumps(raw, indent=1))
        save_tokenizer(gguf.architecture, gguf.metadata, output)
        ends = [gguf.metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")]
        known = sorted({int(one) for one in ends if one is not None})
        (output / "generation_config.json").write_text(json.dumps({"eos_token_id": known} if known else {}))

    return Checkpoint(str(path), hf, hf.decoder, tensors, made, write_files)


def _with_adapter(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    adapter = open_adapter(path)
    rename = text_name if checkpoint.hf.wrapper else _same
    tied = checkpoint.config.tied_embeddings
    tensors, count = merged(checkpoint.tensors, adapter, tied, rename)
    say(f"{path}: merged into {count} tensors")
    made = checkpoint.made | {"adapter": {"path": str(path), "tensors": count, "config": adapter.config}}
    return replace(checkpoint, tensors=tensors, made=made)


def _same(name: str) -> str | None:
    return name
