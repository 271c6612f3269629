"""Units stored beside a run: read back as written, by this package and by others; halves and strangers are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from sparcom_jax.errors import InputError
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.units import open_units, origin_of, unit_names, write_units
from sparcom_jax.units.file import read_safetensors
from sparcom_jax.units.unit_set import UnitSet
from tests.synthetic import MIXED, make_run

LABELS = [i % 3 for i in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", LABELS, groups=MIXED)


def chosen(run: Run, *, seed: int = 0, groups: tuple[str, ...] = ("shared", "routed", "expert")) -> UnitSet:
    random = np.random.default_rng(seed)
    score = {name: random.normal(size=(3, *run.groups[name].shape)).astype(np.float32) for name in groups}
    mask = {name: one > 0.5 for name, one in score.items()}
    origin = origin_of(run, "auroc", size=40, half=["i0", "i3"], seed=seed, baseline="rest")
    return UnitSet(run.categories, {name: run.groups[name] for name in groups}, score, mask, origin)


def test_what_is_written_is_read_back(run: Run) -> None:
    units = chosen(run)
    assert unit_names(run.store) == []
    write_units(run, "auroc", units)
    again = open_units(open_run(run.location), "auroc")
    assert (again.name, list(again.categories), dict(again.groups)) == ("auroc", run.categories, dict(units.groups))
    assert (dict(again.origin), again.digest) == (dict(units.origin), units.digest)
    for name in units.groups:
        np.testing.assert_array_equal(again.score[name], units.score[name])
        np.testing.assert_array_equal(again.mask[name], units.mask[name])
    assert unit_names(run.store) == ["auroc"]
    alone = read_safetensors(Path(run.location) / "units/auroc.safetensors")
    np.testing.assert_array_equal(alone.mask["routed"], units.mask["routed"])
    assert dict(alone.origin) == dict(units.origin)


def test_units_of_the_same_name_are_replaced_whole(run: Run) -> None:
    write_units(run, "a", chosen(run))
    write_units(run, "a.b", chosen(run, seed=1))
    write_units(run, "a", chosen(run, seed=2, groups=("mlp",)))
    assert list(open_units(run, "a").groups) == ["mlp"]
    assert not (Path(run.location) / "units/a/routed").exists()
    assert open_units(run, "a.b").origin["seed"] == 1
    assert unit_names(run.store) == ["a", "a.b"]


def test_zarr_and_xarray_open_them(run: Run) -> None:
    units = chosen(run)
    write_units(run, "auroc", units)
    group: Any = zarr.open_group(Path(run.location) / "units/auroc", mode="r")
    assert {name: group.attrs[name] for name in ("selector", "size", "half", "seed", "categories")} == {
        "selector": "auroc", "size": 40, "half": ["i0", "i3"], "seed": 0, "categories": run.categories,
    }  # fmt: skip
    score, mask = group["routed/score"], group["routed/mask"]
    assert score.metadata.dimension_names == ("category", "layer", "expert", "neuron")
    assert mask.metadata.dimension_names == ("category", "layer", "expert", "neuron_byte")
    assert score.shards[0] == mask.shards[0] == 1  # a category is an object of the store
    bits = np.unpackbits(mask[:], axis=-1, bitorder="little")[..., : units.mask["routed"].shape[-1]]
    np.testing.assert_array_equal(bits, units.mask["routed"])
    tree = run.dataset()
    np.testing.assert_array_equal(tree["units/auroc/shared/score"].values, units.score["shared"])
    assert tree["units/auroc/routed/mask"].dims == ("category", "layer", "expert", "neuron_byte")


class Killed(Exception):
    """The process ends here."""


@pytest.mark.parametrize("first", [False, True], ids=["the first", "one that replaces another"])
def test_half_written_units_are_no_units(first: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before every write there is, one after another, and then run again."""
    if first:
        write_units(run, "a", chosen(run, seed=1))
    units = chosen(run)
    steps, killed = 0, True
    while killed:
        left = steps

        def step(ahead: Any) -> Any:
            def call(self: Store, *arguments: Any, **named: Any) -> Any:
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return ahead(self, *arguments, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("write", "delete_prefix", "create_array"):
                patch.setattr(Store, name, step(getattr(Store, name)))
            try:
                write_units(run, "a", units)
                killed = False
            except Killed:
                pass
        if killed and (steps or not first):
            assert unit_names(run.store) == []
            with pytest.raises(InputError, match="no units 'a'; the run has none"):
                open_units(run, "a")
            assert "instruction" in run.dataset()
        steps += 1
    assert steps > 10
    assert open_units(run, "a").digest == units.digest


def test_units_of_another_run_are_refused(run: Run, tmp_path: Path) -> None:
    other = make_run(tmp_path / "other", LABELS, groups=MIXED, seed=1)
    with pytest.raises(InputError, match=r"run: the units were chosen by another run \(of another model"):
        write_units(run, "auroc", chosen(other))
    write_units(other, "auroc", chosen(other))
    shutil.copytree(Path(other.location) / "units", Path(run.location) / "units")
    with pytest.raises(InputError, match="run: units 'auroc' were chosen by another run"):
        open_units(run, "auroc")


def test_names(run: Run) -> None:
    with pytest.raises(InputError, match="name 'a/b' must be letters"):
        write_units(run, "a/b", chosen(run))
    with pytest.raises(InputError, match=r"name 'a\.safetensors' must not hold '\.safetensors'"):
        write_units(run, "a.safetensors", chosen(run))
    with pytest.raises(InputError, match=r"run: no units 'b'; the run has none$"):
        open_units(run, "b")


@pytest.mark.parametrize(("field", "value", "message"), [
    ("schema_version", 9, "schema_version is 9"),
    ("groups", ["mlp", "x"], r"field 'groups' is \['mlp', 'x'\]"),
    ("groups", 3, "field 'groups' is 3"),
    ("categories", ["A", "B", "C"], "units 'a' are of the categories A, B, C"),
    ("categories", None, "must be unique, and one at least"),
    ("selector", None, "field 'selector' of the origin must be a non-empty string"),
    ("size", 41, "not as they were written"),
])  # fmt: skip
def test_attributes_at_fault(field: str, value: Any, message: str, run: Run) -> None:
    write_units(run, "a", chosen(run))
    path = Path(run.location) / "units/a/zarr.json"
    metadata = json.loads(path.read_text())
    metadata["attributes"][field] = value
    path.write_text(json.dumps(metadata))
    with pytest.raises(InputError, match=message):
        open_units(run, "a")
