"""The manifest of a run: what its attributes say of it, and what must be the same for it to go on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sparcom_jax.errors import InputError
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.strict_json import typed
from sparcom_jax.units.groups import Group, group_from_json

IDENTITY = (
    "schema_version", "model.digest", "model.family", "tokenizer.digest", "instructions.digest", "categories", "groups",
    "rows_per_write", "capture", "execution", "selection", "dtype", "devices.platform", "devices.mesh.model",
    "devices.kernels", "versions.jax", "versions.sparcom_jax",
)  # fmt: skip
"""What must be the same for a run to go on: everything that the numbers depend on. The count of devices and processes
is not among it, because every device computes the same batches."""

USUAL_CAPTURE = {
    "max_tokens": 0, "truncate": False, "scope": "prompt", "new_tokens": 0, "template": "none", "count_window": 0,
    "convention": "gate", "keep": "counts", "value_statistics": False, "rows_per_block": 0,
}  # fmt: skip
"""The settings of a capture that nobody has changed."""


def changed_capture(capture: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a capture that are not the usual ones."""
    return {name: capture[name] for name, usual in USUAL_CAPTURE.items() if capture.get(name, usual) != usual}


@dataclass(frozen=True, kw_only=True)
class CapturedModel:
    """The model of a run.

    Attributes:
      family: its family, as the checkpoint's config names it.
      path: directory of the converted model.
      source: the checkpoint that it was converted from.
      digest: of its config and its weights.
      conversion: what conversion made of the checkpoint's files; None of a model that never was a checkpoint.
      checkpoint_dtype: the dtype that the checkpoint is stored in.
      parameters: how many it has.
      num_layers: how many layers it has.
      hidden_size: its width.
      num_experts_per_tok: experts that a token is routed to; 0 without routed experts.
    """

    family: str
    path: str
    source: str
    digest: str
    conversion: dict[str, Any] | None
    checkpoint_dtype: str
    parameters: int
    num_layers: int
    hidden_size: int
    num_experts_per_tok: int


@dataclass(frozen=True, kw_only=True)
class CapturedTokenizer:
    """The tokenizer of a run.

    Attributes:
      digest: of the files that it is made of.
      special_token_ids: ids of its special tokens, ascending.
    """

    digest: str
    special_token_ids: list[int]


@dataclass(frozen=True, kw_only=True)
class CapturedInstructions:
    """The instructions of a run.

    Attributes:
      source: the file, or `hexainst`.
      digest: of all rows.
      count: how many there are.
      truncated: by id, the tokens of each text of which some were cut off.
    """

    source: str
    digest: str
    count: int
    truncated: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Devices:
    """Where a run was captured.

    Attributes:
      platform: `cpu`, `gpu` or `tpu`.
      kind: the name that the devices give themselves.
      mesh: devices along each axis of the mesh of a process.
      kernels: which kernel each part of the model ran.
      processes: how many began the run.
    """

    platform: str
    kind: str
    mesh: dict[str, int]
    kernels: dict[str, str]
    processes: int


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens of a run.

    Attributes:
      fed: how many the model reads.
      counted: how many of them count.
      slots_filled: share of the token slots of all batches that hold one of them.
    """

    fed: int
    counted: int
    slots_filled: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that the numbers of a run depend on.

    Attributes:
      model: what was captured.
      tokenizer: its tokenizer.
      instructions: what it read.
      categories: names of the categories; `instruction/category` indexes into them.
      groups: the model's groups of neurons, by name.
      rows_per_write: instructions in one written block.
      capture: the settings of the capture, and what they came to: the digest of the template, how texts begin, what
        is done with padding, and which tokens end a continuation.
      execution: the settings of where and how the model ran.
      selection: how the device cut the counts of neurons; None where the run keeps the counts.
      dtype: that the model ran in.
      devices: that it ran on.
      versions: of Python and of the packages that the numbers come from.
      tokens: how many there are; None before they are known.
    """

    model: CapturedModel
    tokenizer: CapturedTokenizer
    instructions: CapturedInstructions
    categories: list[str]
    groups: dict[str, Group]
    rows_per_write: int
    capture: dict[str, Any]
    execution: dict[str, Any]
    selection: dict[str, Any] | None
    dtype: str
    devices: Devices
    versions: dict[str, str]
    tokens: Tokens | None = None

    def to_json(self) -> dict[str, Any]:
        """The manifest as the attributes of a run."""
        groups = {name: group.to_json() for name, group in self.groups.items()}
        entries = {"schema_version": SCHEMA_VERSION, **asdict(self), "groups": groups}
        if self.tokens is None:
            del entries["tokens"]
        return entries

    @classmethod
    def from_json(cls, attributes: dict[str, Any], where: str) -> "Manifest":
        """Reads the attributes of a run.

        Args:
          attributes: what `to_json` gave.
          where: the file that they are from, for messages.

        Raises:
          InputError: they are of another schema, or a field is missing or of another type.
        """
        if attributes.get("schema_version") != SCHEMA_VERSION:
            raise InputError(f"{where}: schema_version is {attributes.get('schema_version')!r}, this version reads "
                             f"{SCHEMA_VERSION}")  # fmt: skip
        entries = typed(dict[str, dict[str, Any]], attributes.get("groups"), where, "groups")
        groups = {name: _group(name, entry, where) for name, entry in entries.items()}
        manifest: Manifest = typed(cls, attributes | {"groups": groups}, where)
        return manifest

    @property
    def identity(self) -> dict[str, Any]:
        """What `IDENTITY` names, as JSON."""
        return _identity(self.to_json())

    @property
    def identity_digest(self) -> str:
        """Digest of all that the numbers of a run depend on."""
        return hashlib.sha256(json.dumps(list(self.identity.values()), sort_keys=True).encode()).hexdigest()

    def require_same(self, attributes: dict[str, Any], location: str) -> None:
        """Refuses a run that was begun with something else, as it could not go on with this.

        Args:
          attributes: those of the run.
          location: where it lies, for messages.

        Raises:
          InputError: it names the first field of `IDENTITY` that differs.
        """
        existing = _identity(attributes)
        for field, now in self.identity.items():
            was = existing[field]
            if was != now:
                if isinstance(was, dict) and isinstance(now, dict):
                    key = next(key for key in sorted(was.keys() | now.keys()) if was.get(key) != now.get(key))
                    field, was, now = f"{field}.{key}", was.get(key), now.get(key)
                raise InputError(f"{location}: was captured with another {field} ({was!r}, now {now!r}); choose "
                                 f"another --output, or delete this run")  # fmt: skip


def _group(name: str, entry: dict[str, Any], where: str) -> Group:
    sizes = {dim: size for dim, size in entry.items() if dim != "layers"}
    typed(list[int], entry.get("layers"), where, f"groups.{name}.layers")
    typed(dict[str, int], sizes, where, f"groups.{name}")
    return group_from_json(name, entry)


def _identity(attributes: dict[str, Any]) -> dict[str, Any]:
    return {field: _look_up(attributes, field) for field in IDENTITY}


def _look_up(tree: Any, field: str) -> Any:
    for key in field.split("."):
        tree = tree.get(key) if isinstance(tree, dict) else None
    return json.loads(json.dumps(tree))
