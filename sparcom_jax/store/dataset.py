"""A run as an xarray tree: its arrays, which are read when they are needed, with names along their axes.

Axis legend: I instructions, C categories.
"""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray
from xarray.core.indexing import IndexSelResult
from xarray.indexes import PandasIndex
from zarr.errors import ZarrUserWarning

from sparcom_jax.store.run import Run

BESIDE = "instruction_category"
"""The category of each instruction where `category` is an axis of its own, as in sets."""


class CategoryIndex(PandasIndex):
    """Finds all instructions of a category, or of several; their axis stays, however many they are."""

    def sel(self, labels: dict[Any, Any], method: str | None = None, tolerance: Any = None) -> IndexSelResult:
        """The places of the instructions of the categories that are asked for, in the order of the run.

        Raises:
          KeyError: there is no such category.
        """
        ((_, asked),) = labels.items()
        if isinstance(asked, slice):
            return super().sel(labels, method, tolerance)
        wanted = [str(name) for name in np.asarray(asked).reshape(-1)]
        if unknown := [name for name in wanted if name not in self.index]:
            raise KeyError(f"category {unknown[0]!r} is not among {', '.join(self.index.unique())}")
        return IndexSelResult({self.dim: np.flatnonzero(self.index.isin(wanted))})


class RunTree(xarray.DataTree):
    """The tree of a run, whose `sel` also selects by what is not the name of an axis: the category of instructions."""

    def sel(
        self,
        indexers: Mapping[Any, Any] | None = None,
        method: Any = None,
        tolerance: Any = None,
        drop: bool = False,
        **indexers_kwargs: Any,
    ) -> "RunTree":
        """Selects by labels: as `xarray.Dataset.sel`, in every node that has them. Others with such axes are left out.

        Raises:
          KeyError: no node has the labels.
        """
        wanted = {**(indexers or {}), **indexers_kwargs}
        nodes, found, fault = {}, set[Any](), None
        for path, node in self.subtree_with_keys:
            dataset = node.to_dataset()
            own = {name: label for name, label in wanted.items() if name in dataset.xindexes}
            if "category" in wanted and BESIDE in dataset.xindexes:
                own[BESIDE] = wanted["category"]
            try:
                nodes[path] = dataset.sel(own, method=method, tolerance=tolerance, drop=drop)
            except KeyError as error:  # for example a layer of experts, where a node has the dense ones
                fault = error
                continue
            found |= own.keys()
        if missing := [name for name in wanted if name not in found]:
            raise fault or KeyError(f"no node has labels {missing[0]!r}")
        return RunTree.from_dict(nodes, name=self.name)


def run_tree(run: Run) -> RunTree:
    """The tree of a run, with coordinates; of the arrays only those of instructions and layers are read.

    Args:
      run: the run, at a path that zarr can open.

    Raises:
      InputError: the run has no rows yet.
    """
    with warnings.catch_warnings():
        # The run has files that are no Zarr arrays, and may have half-written units; zarr says so each time.
        warnings.filterwarnings("ignore", message="Object at .* is not recognized", category=ZarrUserWarning)
        raw = xarray.open_datatree(run.location, engine="zarr", consolidated=False)
    ids = np.asarray([row["id"] for row in run.instructions])
    category = np.asarray(run.categories)[run.category]
    nodes = {}
    for path, node in raw.subtree_with_keys:
        rows = _attributed(run, path, raw)
        nodes[path] = _named(run, node.to_dataset(inherit=False), path, ids[rows], category[rows])
    return RunTree.from_dict(nodes)


def _attributed(run: Run, path: str, raw: xarray.DataTree) -> Any:
    """Which instructions the arrays of a node are of: all, or those that are attributed."""
    kind, _, rest = path.partition("/")
    if kind != "attribution" or not rest:
        return slice(None)
    return run.first_rows(raw[f"attribution/{rest.partition('/')[0]}"].attrs.get("per_category", 0))


def _named(run: Run, dataset: xarray.Dataset, path: str, ids: np.ndarray, category: np.ndarray) -> xarray.Dataset:
    """The arrays of a node with coordinates along those axes that are as long as these."""
    along = {"instruction": ids, "category": np.asarray(run.categories)}
    if group := run.groups.get(path.rpartition("/")[2]):
        along["layer"] = np.asarray(group.layers, np.int32)
    sizes = dataset.sizes
    named = dataset.assign_coords({dim: of for dim, of in along.items() if sizes.get(dim) == len(of)})
    if sizes.get("instruction") != len(ids):
        return named
    name = BESIDE if "category" in sizes else "category"
    # In the group `instruction` it takes the place of the numbers that the store has.
    return named.assign_coords({name: ("instruction", category)}).set_xindex(name, CategoryIndex)
