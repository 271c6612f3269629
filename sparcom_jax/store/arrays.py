"""Zarr v3 groups and arrays through TensorStore, at a path, `gs://` or `s3://`."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from sparcom_jax.errors import InputError
from sparcom_jax.store.schema import ArraySpec


def finished(future: Any, location: str) -> Any:
    """Waits for what TensorStore was asked for.

    TensorStore has tried again by then where that could help.

    Args:
      future: what `read`, `write` and the like return.
      location: the store, for the message.

    Raises:
      InputError: the store failed: a disk is full, a bucket is gone, access is denied.
    """
    try:
        return future.result()
    except (ValueError, OSError) as error:
        raise InputError(f"{location}: the store failed: {' '.join(str(error).split())}") from error


class Store:
    """A place that holds small files and Zarr arrays under one root."""

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        if self.location.startswith("s3://") and endpoint:
            # The variables of Amazon's own tools, which TensorStore does not read: other makers' S3.
            bucket, _, path = self.location.removeprefix("s3://").partition("/")
            path = f"{path.strip('/')}/" if path else ""
            spec: Any = {"driver": "s3", "bucket": bucket, "path": path, "endpoint": endpoint}
        elif "://" in self.location:
            spec = self.location.rstrip("/") + "/"
        else:
            spec = {"driver": "file", "path": f"{Path(self.location).expanduser().absolute()}/"}
        try:
            self._kv = ts.KvStore.open(spec).result()
        except ValueError as error:
            raise InputError(f"{self.location}: cannot be opened as a store: {error}") from error

    def read(self, name: str) -> bytes | None:
        """The content of a file, or None where there is none."""
        result = finished(self._kv.read(name), self.location)
        return None if result.state == "missing" else bytes(result.value)

    def write(self, name: str, content: bytes) -> None:
        """Writes a file whole: a reader sees the old content or the new, never a part."""
        finished(self._kv.write(name, content), self.location)

    def names(self) -> list[str]:
        """All files below the root."""
        return [name.decode() for name in finished(self._kv.list(), self.location)]

    def delete_prefix(self, prefix: str) -> None:
        """Deletes every file whose name starts with `prefix`."""
        finished(self._kv.delete_range(ts.KvStore.KeyRange(prefix, _after(prefix))), self.location)

    def read_attributes(self, group: str = "") -> dict[str, Any] | None:
        """Attributes of a Zarr group, or None where the group does not exist.

        Raises:
          InputError: the group's metadata is not what a Zarr v3 group has.
        """
        name = _join(group, "zarr.json")
        content = self.read(name)
        if content is None:
            return None
        try:
            metadata = json.loads(content)
            if metadata["zarr_format"] != 3 or metadata["node_type"] != "group":
                raise ValueError("not a Zarr v3 group")
            return dict(metadata.get("attributes", {}))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{self.location}/{name}: {error}") from error

    def write_group(self, group: str = "", attributes: dict[str, Any] | None = None) -> None:
        """Writes the metadata of a Zarr group."""
        metadata = {"zarr_format": 3, "node_type": "group", "attributes": attributes or {}}
        self.write(_join(group, "zarr.json"), json.dumps(metadata, indent=1).encode())

    def create_array(self, spec: ArraySpec) -> ts.TensorStore:
        """Creates an array, or opens it where it already exists with the same schema.

        Raises:
          InputError: it exists with another schema.
        """
        try:
            return ts.open(self._array(spec.name) | {"metadata": _metadata(spec)}, open=True, create=True).result()
        except (ValueError, OSError) as error:
            what = "exists with another schema, or cannot be made"
            raise InputError(f"{self.location}/{spec.name}: {what} ({error})") from error

    def open_array(self, name: str) -> ts.TensorStore:
        """Opens an array for reading.

        Raises:
          InputError: there is no such array.
        """
        try:
            return ts.open(self._array(name), open=True, read=True).result()
        except (ValueError, OSError) as error:
            raise InputError(f"{self.location}/{name}: no such array, or it cannot be read ({error})") from error

    def _array(self, name: str) -> dict[str, Any]:
        return {"driver": "zarr3", "kvstore": (self._kv / f"{name}/").spec().to_json(),
                "recheck_cached_data": False, "recheck_cached_metadata": False}  # fmt: skip


def _join(group: str, name: str) -> str:
    return f"{group}/{name}" if group else name


def _after(prefix: str) -> str:
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)


def _metadata(spec: ArraySpec) -> dict[str, Any]:
    itemsize = np.dtype(spec.dtype).itemsize
    compressed = [
        {"name": "bytes", "configuration": {"endian": "little"}} if itemsize > 1 else {"name": "bytes"},
        {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "shuffle", "typesize": itemsize}},
    ]
    if spec.read_shape == spec.write_shape:
        codecs = compressed
    else:
        sharding = {"chunk_shape": spec.read_shape, "codecs": compressed}
        codecs = [{"name": "sharding_indexed", "configuration": sharding}]
    return {
        "shape": spec.shape,
        "data_type": spec.dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": spec.write_shape}},
        "codecs": codecs,
        "fill_value": 0,
        "dimension_names": spec.dims,
    }
