"""The reader of a run: what is in it, whether it is whole, and lazy views of its arrays."""

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorstore as ts
from jaxtyping import Bool, Int64, UInt8, UInt32

from sparcom_jax.errors import InputError, first_of
from sparcom_jax.store.arrays import Store, finished
from sparcom_jax.store.manifest import Manifest
from sparcom_jax.units.groups import EXPERT_GROUP, Group, expert_group

if TYPE_CHECKING:
    import xarray


class Run:
    """A captured run. Axes: I instructions in file order, L layers, F neurons, E routed experts.

    Attributes:
      store: where the run lies.
      manifest: what the run says of itself.
      groups: the neuron groups by name, and `expert` where the model routes.
    """

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self.store = store
        self.manifest = manifest
        self.groups: dict[str, Group] = dict(manifest.groups)
        if "routed" in self.groups:
            self.groups[EXPERT_GROUP] = expert_group(self.groups["routed"])

    def __repr__(self) -> str:
        from sparcom_jax.store.shown import show_run

        return show_run(self).text()

    def _repr_html_(self) -> str:
        from sparcom_jax.store.shown import show_run

        return show_run(self).html()

    @property
    def location(self) -> str:
        """The path or URL of the run."""
        return self.store.location

    @property
    def address(self) -> str:
        """Where the run lies, in whichever way it was named: an absolute path, or the URL."""
        return self.location.rstrip("/") if "://" in self.location else str(Path(self.location).expanduser().resolve())

    @cached_property
    def digest(self) -> str:
        """Tells what was captured from what, and how; whether counts were kept or sets is no difference."""
        manifest = self.manifest
        captured = {name: value for name, value in manifest.capture.items() if name != "keep"}
        made_of = {"capture": captured, "execution": manifest.execution, "model": manifest.model.digest,
                   "tokenizer": manifest.tokenizer.digest, "instructions": manifest.instructions.digest}  # fmt: skip
        return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()

    @property
    def categories(self) -> list[str]:
        """Names of the categories; `category` indexes into them."""
        return self.manifest.categories

    @cached_property
    def instructions(self) -> list[dict[str, Any]]:
        """The rows of the instruction file, in array order, with `token_count` added."""
        content = self.store.read("instructions.jsonl")
        if content is None:
            raise InputError(f"{self.location}/instructions.jsonl: missing")
        return [json.loads(line) for line in content.split(b"\n") if line]  # a text may hold other kinds of line ends

    @cached_property
    def category(self) -> UInt8[np.ndarray, "I"]:
        """Category index of each instruction."""
        return self.read("instruction/category")

    @cached_property
    def token_count(self) -> UInt32[np.ndarray, "I"]:
        """T_i, the counted tokens of each instruction."""
        return self.read("instruction/token_count")

    @cached_property
    def done(self) -> UInt8[np.ndarray, "I"]:
        """1 where every array of the instruction is durable."""
        return self.read("instruction/done")

    @property
    def selection(self) -> dict[str, Any] | None:
        """What the capture cut by where it kept sets of neurons instead of counts; None where it kept counts."""
        return self.manifest.selection

    @property
    def rows_per_write(self) -> int:
        """Instructions in one written block."""
        return self.manifest.rows_per_write

    def record(self) -> dict[str, Any]:
        """What results say of the run that they were made from."""
        manifest = self.manifest.to_json()
        return {"run": self.location, "model": manifest["model"], "manifest": manifest}

    def count_done(self) -> int:
        """How many instructions are done, also of a run that has only begun."""
        begun = all(self.store.read(name) is not None for name in ("instructions.jsonl", "instruction/done/zarr.json"))
        return int(np.count_nonzero(self.read("instruction/done"))) if begun else 0

    def require_complete(self) -> None:
        """Refuses a run that is still being captured.

        Raises:
          InputError: some instructions are not done.
        """
        if any(self.store.read(name) is None for name in ("instructions.jsonl", "instruction/done/zarr.json")):
            raise InputError(f"{self.location}: capture is incomplete: run the same capture command again to finish it")
        missing = np.flatnonzero(self.done == 0)
        if missing.size:
            names = first_of([self.instructions[row]["id"] for row in missing[:6]])
            raise InputError(f"{self.location}: capture is incomplete, {missing.size} of {self.done.size} instructions "
                             f"are not done ({names}); run the same capture command again to finish it")  # fmt: skip

    def first_rows(self, per_category: int, eligible: Bool[np.ndarray, "I"] | None = None) -> Int64[np.ndarray, "_"]:
        """The first instructions of each category, in the order of the run.

        Args:
          per_category: how many; 0 takes all.
          eligible: which instructions may be among them; None: all.
        """
        return first_rows(self.category, per_category, eligible)

    def read(self, name: str) -> np.ndarray:
        """Reads an array whole."""
        return np.asarray(finished(self.store.open_array(name).read(), self.location))

    def count(self, group: str) -> ts.TensorStore:
        """Counts of a group, `[I, *units]` uint16: positive activations, or selections for `expert`.

        Raises:
          InputError: the model has no such group, or the run keeps sets of its units instead of counts.
        """
        if group not in self.groups:
            raise InputError(f"{self.location}: no group {group!r}; the run has {', '.join(self.groups)}")
        if self.selection is not None and group != EXPERT_GROUP:
            raise InputError(f"{self.location}: keeps the sets of {group}, not its counts; capture with keep=counts "
                             f"to have them")  # fmt: skip
        return self.store.open_array("routed/selected_count" if group == EXPERT_GROUP else f"{group}/positive_count")

    def frequency(self, group: str) -> ts.TensorStore:
        """Activation frequency p (of `expert`: routing frequency f), `[I, *units]` float32 in 0..1, read lazily.

        Raises:
          InputError: as `count`.
        """
        count = self.count(group)
        tokens = self.token_count

        def read(domain: ts.IndexDomain, chunk: np.ndarray, parameters: ts.VirtualChunkedReadParameters) -> None:
            del parameters
            rows = tokens[domain[0].inclusive_min : domain[0].exclusive_max].astype(np.float32)
            chunk[...] = count[ts.IndexTransform(domain)].read().result() / rows.reshape(-1, *[1] * (chunk.ndim - 1))

        # The view gets threads of its own: it waits in them for the threads that read the counts.
        layout = ts.ChunkLayout(chunk_shape=count.chunk_layout.read_chunk.shape)
        return ts.virtual_chunked(
            read,
            dtype=ts.float32,
            domain=count.domain,
            chunk_layout=layout,
            context=ts.Context({"data_copy_concurrency": {"limit": 2}}),
        )

    def dataset(self) -> "xarray.DataTree":
        """The whole run as an xarray tree, which reads arrays when they are needed, with coordinates.

        `instruction` has the ids, `category` each instruction's category by name, `layer` the model's layer numbers:
        `tree.sel(category="MATH")`, `tree["mlp"].sel(instruction="math-001")` and
        `tree["mlp/positive_count"].sel(category=["MATH", "CODE"], layer=12)` select by them. Of sets, where categories
        are an axis too, the category of instructions is `instruction_category`.

        Raises:
          InputError: the run has no rows yet.
        """
        from sparcom_jax.store.dataset import run_tree

        return run_tree(self)


def first_rows(
    category: UInt8[np.ndarray, "I"], per_category: int, eligible: Bool[np.ndarray, "I"] | None = None
) -> Int64[np.ndarray, "_"]:
    """The first of each category, in order; `per_category` and `eligible` are as in `Run.first_rows`."""
    may = np.ones(len(category), bool) if eligible is None else eligible
    rows = [np.flatnonzero(may & (category == index)) for index in np.unique(category)]
    return np.sort(np.concatenate([of[: per_category or len(of)] for of in rows]))


def open_run(location: str | Path) -> Run:
    """Opens a run for reading.

    Args:
      location: a path, `gs://` or `s3://`.

    Raises:
      InputError: there is no run, it was written with another schema, or its manifest is not whole.
    """
    store = Store(location)
    attributes = store.read_attributes()
    if attributes is None or "groups" not in attributes:
        raise InputError(f"{location}: not a run (no zarr.json written by capture)")
    return Run(store, Manifest.from_json(attributes, f"{location}/zarr.json"))


def count_done(location: str | Path) -> int:
    """How many instructions of a run are done; 0 where there is no run yet."""
    try:
        return open_run(location).count_done()
    except InputError:
        return 0


def as_run(run: Run | str | Path) -> Run:
    """A run, which is opened where it is given by its path or URL.

    Raises:
      InputError: as `open_run`.
    """
    return run if isinstance(run, Run) else open_run(run)
