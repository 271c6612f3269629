"""Cuts, tie rules and memberships against sorting by hand."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.identify import select
from sparcom_jax.identify.score import cut_count, exactly, pack
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import capture_arrays, group_from_json, vector
from tests import oracles

GROUPS = {"mlp": {"layers": [0, 3], "neuron": 21}, "routed": {"layers": [1, 2], "expert": 4, "neuron": 10}}
ROWS, ROWS_PER_WRITE = 23, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Random counts with many ties, and value sums."""
    store = Store(tmp_path_factory.mktemp("identify") / "run")
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, ROWS).astype(np.uint32)
    store.write_group("", {"schema_version": 1, "groups": GROUPS, "categories": ["a", "b", "c"],
                           "rows_per_write": ROWS_PER_WRITE,
                           "model": {"num_layers": 4, "family": "qwen2_moe", "num_experts_per_tok": 2}})  # fmt: skip
    groups = [group_from_json(name, entry) for name, entry in GROUPS.items()]
    for spec in capture_arrays(groups, ROWS, ROWS_PER_WRITE, True):
        shape = (ROWS, *[1] * (len(spec.shape) - 1))
        values: Any = random.integers(0, tokens.reshape(shape) + 1, spec.shape)
        if spec.dtype == "float32":
            values = random.standard_normal(spec.shape)
        store.create_array(spec).write(values.astype(spec.dtype)).result()
    category = np.arange(ROWS) % 3
    for name, dtype, values in (("category", "uint8", category), ("token_count", "uint32", tokens),
                                ("done", "uint8", np.ones(ROWS))):  # fmt: skip
        spec = vector(f"instruction/{name}", dtype, "instruction", ROWS)
        store.create_array(spec).write(values.astype(dtype)).result()
    store.write("instructions.jsonl", b"".join(b'{"id": "%d"}\n' % row for row in range(ROWS)))
    return sj.open_run(store.location)


def masks(sets: sj.Sets, group: str) -> np.ndarray:
    layers = range(len(sets.groups[group].layers))
    return np.concatenate([sets.layer_mask(group, layer) for layer in layers], axis=1)


@pytest.mark.parametrize("ties", ["include", "drop", "exact"])
@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("chunk", [1, 1 << 28])
def test_top_epsilon(run: Run, ties: str, epsilon: float, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "CHUNK_BYTES", chunk)
    sets = sj.identify(run, name="top", epsilon=epsilon, ties=ties)
    for group in GROUPS:
        p = run.read(f"{group}/positive_count").reshape(ROWS, -1) / run.token_count[:, None]
        sums = run.read(f"{group}/value_sum").reshape(ROWS, -1)
        found = masks(sets, group)
        for row in range(ROWS):
            means = sums[row] / np.float32(run.token_count[row])
            expected, cut = oracles.select(p[row], epsilon, ties, means)
            assert set(np.flatnonzero(found[row])) == expected
            assert sets.cut(group)[row] == cut
        np.testing.assert_array_equal(sets.size(group), found.sum(1))
        by_category = [found[run.category == category].sum(0) for category in range(3)]
        np.testing.assert_array_equal(sets.membership(group).reshape(3, -1), by_category)


@pytest.mark.parametrize("threshold", [0.1, 1 / 3, 0.5, 0.7, 1.0])
def test_threshold(run: Run, threshold: float) -> None:
    sets = sj.identify(run, name="absolute", selector="threshold", threshold=threshold)
    for group in GROUPS:
        p = run.read(f"{group}/positive_count").reshape(ROWS, -1) / run.token_count[:, None]
        np.testing.assert_array_equal(masks(sets, group), p >= threshold)
        assert (sets.cut(group) == threshold).all()


def test_groups_cut_together(run: Run) -> None:
    sets = sj.identify(run, name="pooled", epsilon=0.1, pool=True, ties="exact")
    p = (
        np.concatenate([run.read(f"{g}/positive_count").reshape(ROWS, -1) for g in GROUPS], 1)
        / run.token_count[:, None]
    )
    sums = np.concatenate([run.read(f"{g}/value_sum").reshape(ROWS, -1) for g in GROUPS], 1)
    found = np.concatenate([masks(sets, group) for group in GROUPS], axis=1)
    for row in range(ROWS):
        expected, _ = oracles.select(p[row], 0.1, "exact", sums[row] / np.float32(run.token_count[row]))
        assert set(np.flatnonzero(found[row])) == expected


@pytest.mark.parametrize("ties", ["include", "drop", "exact"])
@pytest.mark.parametrize("fields", [{}, {"expert_per_layer": 1}, {"expert_epsilon": 0.3}])
def test_experts(run: Run, ties: str, fields: dict[str, Any]) -> None:
    sets = sj.identify(run, name="experts", ties=ties, **fields)
    f = run.read("routed/selected_count") / run.token_count[:, None, None]
    found = masks(sets, "expert").reshape(f.shape)
    for row in range(ROWS):
        if "expert_epsilon" in fields:
            expected, cut = oracles.select(f[row].reshape(-1), 0.3, ties)
            assert set(np.flatnonzero(found[row])) == expected
            assert sets.cut("expert")[row] == cut
        else:
            for layer in range(2):
                share = fields.get("expert_per_layer", 2) / 4
                expected, _ = oracles.select(f[row, layer], share, ties)
                assert set(np.flatnonzero(found[row, layer])) == expected


def test_core_sets(run: Run) -> None:
    sets = sj.identify(run, epsilon=0.3)
    found = masks(sets, "routed")
    core = sets.core("routed", 0.6).reshape(3, -1)
    for category in range(3):
        np.testing.assert_array_equal(core[category], found[run.category == category].mean(0) >= 0.6)


def test_a_set_is_replaced_whole(run: Run) -> None:
    before = sj.identify(run, name="again", epsilon=0.3).size("mlp").sum()
    assert 0 < sj.identify(run, name="again", epsilon=0.01).size("mlp").sum() < before / 2
    assert sj.open_sets(run, "again").attributes["epsilon"] == 0.01
    with pytest.raises(InputError, match=r"no set 'other'; the run has .*again.*"):
        sj.open_sets(run, "other")


@pytest.mark.parametrize(("fields", "message"), [
    ({"epsilon": 0.0}, r"epsilon must be within \(0, 1\]"),
    ({"epsilon": 1.5}, "epsilon"),
    ({"selector": "best"}, "selector 'best'"),
    ({"ties": "maybe"}, "ties 'maybe'"),
    ({"selector": "threshold", "threshold": 0.0}, "threshold must be within"),
    ({"name": "../up"}, "name '../up'"),
    ({"expert_per_layer": 9}, "expert_per_layer 9 is more than the 4 experts"),
])  # fmt: skip
def test_bad_settings(run: Run, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sj.identify(run, **({"name": "bad"} | fields))
    assert "bad" not in {name.split("/")[1] for name in run.store.names() if name.endswith("bad/zarr.json")}


counts_of = st.lists(st.integers(0, 65535), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(counts_of, st.integers(1, 40))
def test_the_cut_is_the_kth_largest(values: list[int], wanted: int) -> None:
    wanted = min(wanted, len(values))
    counts = np.asarray(values, np.uint16)
    groups = np.split(counts, [len(values) // 2]) if len(values) > 1 else [counts]
    cut = cut_count(groups, wanted)
    assert cut == sorted(values, reverse=True)[wanted - 1]
    mask = exactly(counts, None, cut, wanted)
    assert int(mask.sum()) == wanted
    unpacked = np.unpackbits(pack(mask), count=len(values), bitorder="little")
    np.testing.assert_array_equal(unpacked, mask)
