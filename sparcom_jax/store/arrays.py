"""Zarr v3 groups and arrays through TensorStore, at a path, `gs://` or `s3://`."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from sparcom_jax.errors import InputError
from sparcom_jax.store.schema import ArraySpec

FIRST_CONTACT_SECONDS = 30.0
FIRST_RETRIES = {"max_retries": 4, "initial_delay": "500ms", "max_delay": "4s"}
"""Later requests are tried again for much longer: a store that has answered once is there."""


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
    """A place that holds small files and Zarr arrays under one root.

    Raises:
      InputError: a remote store does not answer, or refuses.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        self._spec = _spec(self.location)
        if "://" in self.location:
            _require_answer(self._spec, self.location)
        try:
            self._kv = ts.KvStore.open(self._spec).result()
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

    def group_names(self, parent: str) -> list[str]:
        """Names of the Zarr groups right below another."""
        within = ts.KvStore.KeyRange(f"{parent}/", _after(f"{parent}/"))
        found = (name.decode().split("/") for name in finished(self._kv.list(within), self.location))
        return sorted({parts[1] for parts in found if len(parts) == 3 and parts[2] == "zarr.json"})

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
        within = f"{name}/"
        # Not the open store's own spec: that leaves out where its credentials came from.
        kvstore = (
            self._spec + within if isinstance(self._spec, str) else self._spec | {"path": self._spec["path"] + within}
        )
        return {"driver": "zarr3", "kvstore": kvstore, "recheck_cached_data": False, "recheck_cached_metadata": False}


def _spec(location: str) -> dict[str, Any] | str:
    """What TensorStore is told of a place."""
    if not location.startswith("s3://"):
        if "://" in location:
            return location.rstrip("/") + "/"
        return {"driver": "file", "path": f"{Path(location).expanduser().absolute()}/"}
    bucket, _, path = location.removeprefix("s3://").partition("/")
    spec: dict[str, Any] = {"driver": "s3", "bucket": bucket, "path": f"{path.strip('/')}/" if path else ""}
    # The variables of Amazon's own tools, which TensorStore does not read: other makers' S3.
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        spec["endpoint"] = endpoint
    if os.environ.get("AWS_ACCESS_KEY_ID") and os.environ.get("AWS_SECRET_ACCESS_KEY"):
        spec["aws_credentials"] = {"type": "environment"}  # looks for no others, whose lack would be logged
    return spec


def _require_answer(spec: Any, location: str) -> None:
    """Refuses a remote store that does not answer soon.

    Raises:
      InputError: it is not there, there are no credentials for it, or its name is wrong.
    """
    few = ts.Context({"s3_request_retries": FIRST_RETRIES, "gcs_request_retries": FIRST_RETRIES})
    try:
        with _libraries_silent():
            store = ts.KvStore.open(spec, context=few).result(timeout=FIRST_CONTACT_SECONDS)
            store.read("zarr.json").result(timeout=FIRST_CONTACT_SECONDS)
    except TimeoutError as error:
        raise InputError(f"{location}: the store gives no answer within {FIRST_CONTACT_SECONDS:.0f} s") from error
    except (ValueError, OSError) as error:
        raise InputError(f"{location}: the store cannot be reached: {' '.join(str(error).split())}") from error


@contextmanager
def _libraries_silent() -> Iterator[None]:
    """Keeps off stderr what libraries in C++ log about credentials that they look for and do not find."""
    usual = os.dup(2)
    with tempfile.TemporaryFile() as logged:
        os.dup2(logged.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(usual, 2)
            os.close(usual)


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
