"""A converted model: an Orbax checkpoint beside the config and tokenizer files that it came with."""

import hashlib
import json
import math
import re
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sparcom_jax.convert.checkpoint import COPIED, TOKENIZER_FILES, Checkpoint, open_checkpoint
from sparcom_jax.convert.files import INDEX, SINGLE
from sparcom_jax.convert.hf_config import read_config
from sparcom_jax.convert.output import require_absent, whole_directory
from sparcom_jax.convert.stacks import Stacks
from sparcom_jax.convert.weights import SourceWeights, parameter_groups
from sparcom_jax.display import Display
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, abstract_params
from sparcom_jax.models.stored import stored_params
from sparcom_jax.progress import progress, say
from sparcom_jax.units.groups import model_groups, shapes

MANIFEST = "sparcom.json"
PARAMS = "params"
SCHEMA_VERSION = 3
CHUNK_BYTES = 64 << 20


@dataclass(frozen=True)
class ModelDir:
    """A converted model on disk.

    Attributes:
      path: the directory.
      config: what the decoder runs on.
      manifest: family, dtype, parameter count, source, digest, and what conversion made of the files.
    """

    path: Path
    config: DecoderConfig
    manifest: dict[str, Any]

    def __repr__(self) -> str:
        return self._shown().text()

    def _repr_html_(self) -> str:
        return self._shown().html()

    def _shown(self) -> Display:
        config, manifest = self.config, self.manifest
        return Display(f"Model {self.path}", [
            ("family", f"{config.family}, {manifest['parameters']:,} parameters in {self.dtype}"),
            ("layers", f"{config.num_layers} of width {config.width:,}"),
            ("groups", shapes(model_groups(config))),
            ("source", str(manifest["source"])),
        ])  # fmt: skip

    @property
    def dtype(self) -> str:
        """The dtype that the checkpoint is stored in."""
        return str(self.manifest["dtype"])

    @property
    def digest(self) -> str:
        """Digest of the weights and the config that the decoder runs on."""
        return str(self.manifest["digest"])

    @cached_property
    def tokenizer_digest(self) -> str:
        """Digest of all files that a tokenizer is made of."""
        files = [(name, self.path / name) for name in TOKENIZER_FILES]
        parts = [(name, hashlib.sha256(file.read_bytes()).hexdigest()) for name, file in files if file.exists()]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def tokenizer(self) -> Any:
        """The model's own tokenizer, without remote code.

        Raises:
          InputError: the directory has none that transformers can load.
        """
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(self.path, trust_remote_code=False, local_files_only=True)
        except Exception as error:  # transformers raises whatever the tokenizer's own code raises
            raise InputError(f"{self.path}: tokenizer cannot be loaded: {error}") from error

    def require_head(self, purpose: str) -> None:
        """Refuses a model that was saved without its output head.

        Args:
          purpose: what needs logits.

        Raises:
          InputError: it has none.
        """
        if not self.config.head:
            raise InputError(f"{self.path}: has no output head, which {purpose} needs (saved as "
                             f"{', '.join(self.manifest['architectures'])})")  # fmt: skip

    def stop_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text: those that generation_config.json, config.json and the tokenizer name.

        Raises:
          InputError: a file holds something else than token ids of the model.
        """
        ids = {self.tokenizer().eos_token_id} - {None}
        for file in ("generation_config.json", "config.json"):
            try:
                named = json.loads((self.path / file).read_text()).get("eos_token_id")
            except FileNotFoundError:
                continue
            except (ValueError, AttributeError) as error:
                raise InputError(f"{self.path / file}: not a JSON object: {error}") from error
            for one in named if isinstance(named, list) else [named] * (named is not None):
                if type(one) is not int or not 0 <= one < self.config.vocab_size:
                    raise InputError(f"{self.path / file}: eos_token_id {one!r} is not a token of the model")
                ids.add(one)
        return tuple(sorted(ids))

    def restore(self, shardings: Any, dtype: str) -> Params:
        """Reads the parameters straight to their devices, each device its own part.

        Args:
          shardings: tree of shardings like the parameters, or one sharding for all.
          dtype: dtype that they are cast to.

        Raises:
          InputError: a part of the parameters is missing or cannot be read.
        """
        abstract, tree = jax.tree.flatten(abstract_params(self.config))
        one_for_all = isinstance(shardings, jax.sharding.Sharding)
        of_leaves = [shardings] * len(abstract) if one_for_all else jax.tree.leaves(shardings)
        stacks = Stacks([leaf.shape for leaf in abstract], dtype, of_leaves)
        stored = stored_params(self.config)
        with _checkpointer() as checkpointer:
            for index, paths in enumerate(parameter_groups(self.config, self.dtype)):
                wanted = {path: stacks.abstract(stored[path]) for path in paths}
                arguments = ocp.args.PyTreeRestore(
                    item=wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted)
                )
                part = self.path.absolute() / PARAMS / str(index)
                try:
                    group = checkpointer.restore(part, args=arguments)
                except (OSError, ValueError) as error:
                    raise InputError(f"{part}: parameters cannot be read: {error}") from error
                for path in paths:
                    stacks.put(stored[path], group.pop(path))
        params: Params = jax.tree.unflatten(tree, stacks.leaves)
        return params


def open_model(path: str | Path) -> ModelDir:
    """Opens a directory that `convert` wrote.

    Raises:
      InputError: it is not one, or was written with another schema.
    """
    path = Path(path)
    try:
        manifest = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError as error:
        raise InputError(f"{path}: not a converted model (no {MANIFEST}); run convert first") from error
    except ValueError as error:
        raise InputError(f"{path / MANIFEST}: not JSON: {error}") from error
    version = manifest.get("schema_version") if isinstance(manifest, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{path / MANIFEST}: schema_version is {version!r}, this version reads {SCHEMA_VERSION}; "
                         f"convert the checkpoint again")  # fmt: skip
    return ModelDir(path, replace(read_config(path).decoder, head=manifest["head"]), manifest)


def as_model(model: ModelDir | str | Path) -> ModelDir:
    """A converted model, which is opened where it is given by its directory.

    Raises:
      InputError: as `open_model`.
    """
    return model if isinstance(model, ModelDir) else open_model(model)


def convert(
    source: str | Path, output: str | Path, *, dtype: str | None = None, adapter: str | Path | None = None
) -> ModelDir:
    """Converts a checkpoint to Flax parameters in an Orbax checkpoint.

    The output appears whole or not at all.

    Args:
      source: a Hugging Face directory, a GGUF file (of a split one, any part), or the id of a model on the hub
        (`org/name`), which is downloaded to the hub's cache.
      output: directory to make.
      dtype: what quantised tensors are turned into, `bfloat16` or `float32`; by default float32 for GGUF, else the
        dtype that config.json names.
      adapter: directory of a LoRA adapter that is merged into the model.

    Returns:
      The converted model.

    Raises:
      InputError: the output exists or cannot be written, or anything in the source is at fault.
    """
    output = Path(output).absolute()
    require_absent(output)
    checkpoint = open_checkpoint(locate(str(source)), dtype, Path(adapter).expanduser() if adapter else None)
    return write_model(checkpoint, output, str(source))


def write_model(checkpoint: Checkpoint, output: Path, source: str) -> ModelDir:
    """Writes a checkpoint as a converted model; the output appears whole or not at all.

    Args:
      checkpoint: what it is made of.
      output: absolute path of the directory to make, which is not there.
      source: what the model is called.

    Raises:
      InputError: the output cannot be written, or a tensor is at fault.
    """
    config = checkpoint.config
    weights = SourceWeights(config, checkpoint.tensors, source)
    with whole_directory(output, stored_bytes(config, weights.dtype)) as partial:
        checkpoint.write_files(partial)
        count = 0
        with progress("converting", weights.tensor_count(), "tensors") as bar:
            for index, paths in enumerate(parameter_groups(config, weights.dtype)):
                group = weights.read(paths, bar.advance)
                count += sum(leaf.size for leaf in group.values())
                _save(group, partial / PARAMS / str(index))
                del group
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "family": config.family,
            "dtype": weights.dtype,
            "parameters": count,
            "architectures": list(checkpoint.hf.architectures),
            "head": config.head,
            "source": source,
            "conversion": checkpoint.made,
            "digest": model_digest(config, weights.digest()),
        }
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
    say(f"{output}: {config.family}, {count:,} parameters in {weights.dtype}")
    return open_model(output)


def parameter_bytes(config: DecoderConfig, dtype: str) -> int:
    """What all parameters take in a dtype."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config))) * jnp.dtype(dtype).itemsize


def stored_bytes(config: DecoderConfig, dtype: str) -> int:
    """What they take at least in a compressed store; those of a checkpoint of 4 bits take 0.6 of their bytes."""
    return parameter_bytes(config, dtype) // 2


def model_digest(config: DecoderConfig, weights: str) -> str:
    """Digest of what a model computes: its config and its weights.

    A config counts as its fields that are not at their defaults, so that neither the spelling of a config.json nor a
    field that the decoder gains later makes another model of it.

    Args:
      config: of the model.
      weights: digest of the tensors.
    """
    meaning = json.dumps({"config": _meaning(config), "weights": weights}, sort_keys=True)
    return hashlib.sha256(meaning.encode()).hexdigest()


def _meaning(value: Any) -> Any:
    if is_dataclass(value):
        changed = {
            field.name: getattr(value, field.name)
            for field in fields(value)
            if getattr(value, field.name) != field.default
        }
        return {"kind": type(value).__name__, **{name: _meaning(one) for name, one in changed.items()}}
    return [_meaning(one) for one in value] if isinstance(value, tuple) else value


def _save(group: dict[str, jax.Array], path: Path) -> None:
    # The arrays are jax's, not NumPy's: Orbax copies the latter before it writes, which would double the memory.
    # They are written one after another: the limit below may not be less than the largest.
    largest = max(leaf.nbytes for leaf in group.values())
    save_args = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES), group)
    with _checkpointer(save_concurrent_gb=max(1, math.ceil(largest / 1e9))) as checkpointer:
        try:
            checkpointer.save(path, args=ocp.args.PyTreeSave(group, save_args=save_args))
        except ValueError as error:  # as the store calls a disk that is full
            raise OSError(str(error)) from error


def _checkpointer(**limits: int) -> ocp.Checkpointer:
    """Reads and writes without waiting for the other processes of a job."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"process{me}"
    )
    handler = ocp.PyTreeCheckpointHandler(use_ocdbt=True, use_zarr3=True, multiprocessing_options=alone, **limits)
    return ocp.Checkpointer(handler, multiprocessing_options=alone)


def locate(source: str) -> Path:
    """The directory or the GGUF file that is meant; a model on the hub is downloaded to the hub's cache.

    Raises:
      InputError: there is none.
    """
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix == ".gguf"):
        return path
    if path.is_file():
        raise InputError(
            f"{source}: is a file, but no GGUF file; --source must be a directory, a .gguf file or a hub id"
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", source) or path.suffix == ".gguf":
        raise InputError(f"{source}: no such directory, nor an id of the form org/name")
    return _download(source)


def _download(name: str) -> Path:
    """Brings config, tokenizer and the weights that will be read from the hub, and nothing else."""
    from huggingface_hub import snapshot_download

    def bring(patterns: list[str]) -> Path:
        return Path(snapshot_download(name, allow_patterns=patterns))

    try:
        directory = bring([*COPIED, SINGLE])
        if (directory / SINGLE).exists():
            return directory
        index = bring([INDEX]) / INDEX
        if not index.exists():
            raise InputError(f"{name}: has neither {SINGLE} nor {INDEX}; pickled weights are never loaded")
        return bring(sorted(set(json.loads(index.read_text())["weight_map"].values())))
    except InputError:
        raise
    except Exception as error:  # network, authentication and naming faults come as many types
        said = " ".join(str(error).split())
        raise InputError(f"{name}: no such directory, and the hub gave: {said}") from error
