"""Units of categories, and the file that holds them: what is in it, and what is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sparcom_jax.errors import InputError
from sparcom_jax.units.file import read_safetensors, write_safetensors
from sparcom_jax.units.groups import DIMS, Group
from sparcom_jax.units.unit_set import UnitSet

GROUPS = {
    "mlp": Group("mlp", (0, 2), DIMS["mlp"], (11,)),
    "routed": Group("routed", (1,), DIMS["routed"], (3, 5)),
    "expert": Group("expert", (1,), DIMS["expert"], (3,)),
}
CATEGORIES = ["A/a", "B"]
ORIGIN: dict[str, Any] = {"selector": "auroc", "size": 9, "half": ["i1", "i2"], "seed": 3, "rest": {"x": [1.5, None]}}


def unit_set(**changes: Any) -> UnitSet:
    random = np.random.default_rng(0)
    score = {name: random.random((2, *group.shape)).astype(np.float32) for name, group in GROUPS.items()}
    fields: dict[str, Any] = {"categories": CATEGORIES, "groups": GROUPS, "score": score, "origin": ORIGIN,
                              "mask": {name: one > 0.6 for name, one in score.items()}}  # fmt: skip
    return UnitSet(**fields | changes)


def test_how_many_units_there_are() -> None:
    units = unit_set()
    for name in GROUPS:
        for category in range(2):
            counted = [int(units.mask[name][category][layer].sum()) for layer in range(len(GROUPS[name].layers))]
            assert units.layer_counts(name)[category].tolist() == counted
    assert units.counts(["mlp", "expert"])[0] == units.mask["mlp"][0].sum() + units.mask["expert"][0].sum()


def test_a_category_without_units_is_refused() -> None:
    mask = {name: one.copy() for name, one in unit_set().mask.items()}
    mask["mlp"][1] = mask["expert"][1] = False
    units = unit_set(mask=mask)
    units.require_units(["mlp", "routed"], "no neurons", "")
    with pytest.raises(InputError, match=r"^r: no units of B; take more$"):
        units.require_units(["mlp", "expert"], "r: no units", "; take more")


def test_the_digest_is_of_origin_scores_and_masks() -> None:
    units = unit_set()
    assert units.digest == unit_set().digest
    mask, score = dict(units.mask), dict(units.score)
    mask["mlp"], score["mlp"] = ~mask["mlp"], score["mlp"] + 1
    others = [unit_set(mask=mask), unit_set(score=score), unit_set(origin=ORIGIN | {"seed": 4})]
    assert len({units.digest, *(other.digest for other in others)}) == 4
    assert units.record() == {"name": "", "digest": units.digest, **ORIGIN}


def changed(field: str, group: str, change: Callable[[np.ndarray], np.ndarray]) -> dict[str, Any]:
    arrays = dict(getattr(unit_set(), field))
    arrays[group] = change(arrays[group])
    return {field: arrays}


@pytest.mark.parametrize(("changes", "message"), [
    ({"categories": ["A", "A"]}, r"categories \['A', 'A'\] must be unique"),
    ({"categories": []}, "must be unique, and one at least"),
    ({"categories": ["A", "B", "C"]}, r"score of mlp is float32 \[2, 2, 11\], not float32 \[3, 2, 11\]"),
    ({"groups": {}}, "no group of units"),
    ({"groups": {"mlp": GROUPS["mlp"]}}, "score is of mlp, routed, expert, the groups are mlp"),
    (changed("score", "routed", lambda one: one[:, :, :2]), r"score of routed is float32 \[2, 1, 2, 5\]"),
    (changed("score", "mlp", lambda one: np.where(one > 0.5, np.float32(np.nan), one)), "is not a number"),
    (changed("mask", "expert", lambda one: one[:1]), r"mask of expert is bool \[1, 1, 3\], not bool \[2, 1, 3\]"),
    ({"origin": {"selector": "x", "size": 1, "half": None}}, "origin has no field 'seed'"),
    ({"origin": ORIGIN | {"digest": "x"}}, "a field 'digest', which is not its own"),
    ({"origin": ORIGIN | {"selector": ""}}, "field 'selector' of the origin must be a non-empty string"),
    ({"origin": ORIGIN | {"x": np.ones(2)}}, "the origin is not plain JSON"),
    ({"origin": ORIGIN | {"x": (1, 2)}}, "the origin is not plain JSON: it is read back as another"),
    ({"origin": ORIGIN | {"x": float("inf")}}, "field 'x' must be a finite number"),
])  # fmt: skip
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        unit_set(**changes)


def test_a_file_of_units(tmp_path: Path) -> None:
    units = unit_set()
    path = tmp_path / "units.safetensors"
    write_safetensors(units, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    tensors = load_file(path)
    assert {name: (one.dtype.name, one.shape) for name, one in tensors.items()} == {
        f"{group}/{category}": ("bool", GROUPS[group].shape) for group in GROUPS for category in CATEGORIES
    }
    np.testing.assert_array_equal(tensors["routed/A/a"], units.mask["routed"][0])
    read = read_safetensors(path)
    assert (read.categories, dict(read.groups), dict(read.origin)) == (CATEGORIES, GROUPS, ORIGIN)
    for name, mask in units.mask.items():
        np.testing.assert_array_equal(read.mask[name], mask)
        np.testing.assert_array_equal(read.score[name], mask.astype(np.float32))
    write_safetensors(read, path)
    assert read_safetensors(path).digest == read.digest


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none/units\.safetensors: cannot be written \(No such file"):
        write_safetensors(unit_set(), tmp_path / "none" / "units.safetensors")


Change = Callable[[dict[str, np.ndarray], dict[str, str]], Any]
BAD: list[tuple[Change, str]] = [
    (lambda t, m: m.pop("format"), "metadata field 'format' is None, not 'sparcom units 1'"),
    (lambda t, m: m.pop("origin"), "no metadata field 'origin'"),
    (lambda t, m: m.update(origin="{}"), "metadata field 'origin' must be a non-empty dict"),
    (lambda t, m: m.update(origin='{"selector": "x"}'), "the origin has no field 'size'"),
    (lambda t, m: m.update(categories="[1]"), "metadata field 'categories' must be a list of strings"),
    (lambda t, m: m.update(categories="[["), "metadata field 'categories': not JSON"),
    (lambda t, m: m.update(groups=m["groups"].replace("neuron", "x")), "'groups': 'mlp' is no group of units"),
    (lambda t, m: m.update(groups=m["groups"].replace("11", '"x"')), "sizes of 'mlp' must be whole numbers"),
    (lambda t, m: m.update(groups=m["groups"].replace("11", "12")), r"'mlp/A/a' is bool \[2, 11\], not bool \[2, 12\]"),
    (lambda t, m: t.pop("mlp/B"), "tensor 'mlp/B' is missing"),
    (lambda t, m: t.update(x=np.ones(2, bool)), "tensor 'x' is unexpected"),
    (lambda t, m: t.update({"mlp/B": np.ones((2, 11), np.uint8)}), r"tensor 'mlp/B' is uint8 \[2, 11\], not bool"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message for _, message in BAD])
def test_a_file_at_fault(change: Change, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    write_safetensors(unit_set(), path)
    tensors = load_file(path)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    with pytest.raises(InputError, match=rf"bad\.safetensors: .*{message}"):
        read_safetensors(path)


def test_no_file_of_units_at_all(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    with pytest.raises(InputError, match=r"bad\.safetensors: cannot be read as safetensors"):
        read_safetensors(path)
    path.write_text(json.dumps({}))
    with pytest.raises(InputError, match=r"bad\.safetensors: cannot be read as safetensors"):
        read_safetensors(path)
