"""Manifests against the JSON that they are kept as."""

import copy
import dataclasses
import hashlib
import json
from typing import Any

import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.store.manifest import IDENTITY, Manifest, Tokens
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.units.groups import Group
from tests.synthetic import make_manifest

MLP, ROUTED = Group("mlp", (0,), ("neuron",), (9,)), Group("routed", (1, 2), ("expert", "neuron"), (4, 5))
MANIFEST = dataclasses.replace(
    make_manifest([MLP, ROUTED], ["A", "B"], 7),
    capture={"scope": "prompt", "template": "none"},
    selection={"selector": "frequency", "epsilon": 0.05},
    tokens=Tokens(fed=30, counted=20, slots_filled=0.5),
)
KEPT = {
    "schema_version": SCHEMA_VERSION,
    "model": {
        "family": "llama", "path": "models/made-up", "source": "hub/made-up", "digest": "m0",
        "conversion": {"files": []}, "checkpoint_dtype": "float32", "parameters": 1234, "num_layers": 4,
        "hidden_size": 8, "num_experts_per_tok": 2,
    },
    "tokenizer": {"digest": "t0", "special_token_ids": [0, 1]},
    "instructions": {"source": "rows.jsonl", "digest": "0" * 64, "count": 7, "truncated": {}},
    "categories": ["A", "B"],
    "groups": {"mlp": {"layers": [0], "neuron": 9}, "routed": {"layers": [1, 2], "expert": 4, "neuron": 5}},
    "rows_per_write": 16,
    "capture": {"scope": "prompt", "template": "none"},
    "execution": {"placement": "pmap"},
    "selection": {"selector": "frequency", "epsilon": 0.05},
    "dtype": "float32",
    "devices": {"platform": "cpu", "kind": "cpu", "mesh": {"data": 1, "model": 1}, "kernels": {"counting": "scatter16"},
                "processes": 1},
    "versions": {"jax": "0"},
    "tokens": {"fed": 30, "counted": 20, "slots_filled": 0.5},
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """`KEPT` with another value somewhere, or without any where it is `...`."""
    attributes = copy.deepcopy(KEPT)
    *parents, last = path.split(".")
    inner: Any = attributes
    for key in parents:
        inner = inner[key]
    inner[last] = value
    if value is ...:
        del inner[last]
    return attributes


def test_a_manifest_is_kept_as_json_key_by_key() -> None:
    assert json.dumps(MANIFEST.to_json()) == json.dumps(KEPT)
    assert Manifest.from_json(json.loads(json.dumps(KEPT)), "zarr.json") == MANIFEST
    begun = dataclasses.replace(MANIFEST, tokens=None, selection=None)
    assert json.dumps(begun.to_json()) == json.dumps(changed("tokens", ...) | {"selection": None})
    assert Manifest.from_json(begun.to_json(), "zarr.json") == begun
    assert Manifest.from_json(KEPT | {"note": "of another's"}, "zarr.json") == MANIFEST


@pytest.mark.parametrize(("path", "value", "message"), [
    ("schema_version", ..., f"schema_version is None, this version reads {SCHEMA_VERSION}"),
    ("schema_version", 9, f"schema_version is 9, this version reads {SCHEMA_VERSION}"),
    ("model", ..., "no field 'model'"),
    ("model", "llama", "field 'model' must be of type dict, not 'llama'"),
    ("model.digest", ..., "no field 'model.digest'"),
    ("model.family", 3, "field 'model.family' must be of type str, not 3"),
    ("model.num_layers", True, "field 'model.num_layers' must be of type int, not True"),
    ("model.num_layers", 2.0, "field 'model.num_layers' must be of type int, not 2.0"),
    ("tokenizer.special_token_ids", [0, None], "field 'tokenizer.special_token_ids[1]' must be of type int, not None"),
    ("instructions.truncated", {"i3": "many"}, "field 'instructions.truncated.i3' must be of type int, not 'many'"),
    ("categories", "A", "field 'categories' must be of type list, not 'A'"),
    ("groups", ..., "field 'groups' must be of type dict, not None"),
    ("groups.mlp", [0], "field 'groups.mlp' must be of type dict, not [0]"),
    ("groups.mlp.layers", ..., "field 'groups.mlp.layers' must be of type list, not None"),
    ("groups.mlp.neuron", "9", "field 'groups.mlp.neuron' must be of type int, not '9'"),
    ("capture", ..., "no field 'capture'"),
    ("execution", ..., "no field 'execution'"),
    ("selection", ..., "no field 'selection'"),
    ("devices.mesh", ..., "no field 'devices.mesh'"),
    ("tokens.slots_filled", "half", "field 'tokens.slots_filled' must be of type float, not 'half'"),
])  # fmt: skip
def test_what_is_missing_or_of_another_type_is_named(path: str, value: Any, message: str) -> None:
    with pytest.raises(InputError) as error:
        Manifest.from_json(changed(path, value), "run/zarr.json")
    assert str(error.value) == f"run/zarr.json: {message}"


def test_the_identity_is_what_the_numbers_depend_on() -> None:
    assert list(MANIFEST.identity) == list(IDENTITY)
    assert MANIFEST.identity["devices.mesh.model"] == 1
    assert MANIFEST.identity["groups"] == KEPT["groups"]
    values = json.dumps(list(MANIFEST.identity.values()), sort_keys=True)
    assert MANIFEST.identity_digest == hashlib.sha256(values.encode()).hexdigest()


@pytest.mark.parametrize(("path", "value", "named"), [
    ("model.digest", "m1", "model.digest ('m1', now 'm0')"),
    ("model", ..., "model.digest (None, now 'm0')"),
    ("categories", ["B", "A"], "categories (['B', 'A'], now ['A', 'B'])"),
    ("capture.scope", "response", "capture.scope ('response', now 'prompt')"),
    ("capture.more", 1, "capture.more (1, now None)"),
    ("selection", None, "selection (None, now {'selector': 'frequency', 'epsilon': 0.05})"),
    ("devices.mesh.model", 2, "devices.mesh.model (2, now 1)"),
    ("versions.jax", "1", "versions.jax ('1', now '0')"),
    ("schema_version", 0, f"schema_version (0, now {SCHEMA_VERSION})"),
])  # fmt: skip
def test_a_run_of_something_else_does_not_go_on(path: str, value: Any, named: str) -> None:
    with pytest.raises(InputError) as error:
        MANIFEST.require_same(changed(path, value), "runs/x")
    assert str(error.value) == (
        f"runs/x: was captured with another {named}; choose another --output, or delete this run"
    )


@pytest.mark.parametrize(("path", "value"), [
    ("devices.processes", 4), ("devices.mesh.data", 8), ("devices.kind", "other"), ("model.path", "elsewhere"),
    ("versions.python", "3.13"), ("tokens", ...), ("instructions.source", "copy.jsonl"),
])  # fmt: skip
def test_what_the_numbers_do_not_depend_on_may_be_another(path: str, value: Any) -> None:
    attributes = changed(path, value)
    MANIFEST.require_same(attributes, "runs/x")
    assert Manifest.from_json(attributes, "zarr.json").identity_digest == MANIFEST.identity_digest
