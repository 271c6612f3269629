"""Cuts, tie rules and memberships against sorting by hand."""

from typing import Any

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given, settings
from hypothesis import strategies as st

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.identify import rows, select
from sparcom_jax.identify.rate import mean_rates
from sparcom_jax.identify.score import cut_count, cut_excess, exactly
from sparcom_jax.identify.selection import Selection
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.manifest import Manifest
from sparcom_jax.store.run import Run
from sparcom_jax.store.schema import vector
from sparcom_jax.store.statistics import kept_statistics
from sparcom_jax.units.bits import pack
from sparcom_jax.units.groups import group_from_json
from tests import oracles
from tests.synthetic import make_manifest

GROUPS = {"mlp": {"layers": [0, 3], "neuron": 21}, "routed": {"layers": [1, 2], "expert": 4, "neuron": 10}}
ROWS, ROWS_PER_WRITE = 23, 8


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Random counts with many ties, and value sums."""
    store = Store(tmp_path_factory.mktemp("identify") / "run")
    random = np.random.default_rng(0)
    tokens = random.integers(3, 40, ROWS).astype(np.uint32)
    groups = [group_from_json(name, entry) for name, entry in GROUPS.items()]
    manifest = make_manifest(groups, ["a", "b", "c"], ROWS, rows_per_write=ROWS_PER_WRITE)
    store.write_group("", manifest.to_json())
    kept = [(group, one) for group in groups for one in kept_statistics(group, sets=False, values=True)]
    for units, statistic in kept:
        spec = statistic.array(units, ROWS, ROWS_PER_WRITE)
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


def scores_of(run: Run, selector: str, array: str) -> np.ndarray:
    counts = run.read(array).reshape(ROWS, -1)
    if selector == "excess":
        return oracles.excess(counts, run.token_count, run.category).astype(np.float32)
    return counts / run.token_count[:, None]


def masks(sets: sj.Sets, group: str) -> np.ndarray:
    layers = range(len(sets.groups[group].layers))
    return np.concatenate([sets.layer_mask(group, layer) for layer in layers], axis=1)


@pytest.mark.parametrize("ties", ["include", "drop", "exact"])
@pytest.mark.parametrize("epsilon", [0.01, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("chunk", [1, 1 << 28])
@pytest.mark.parametrize("selector", ["excess", "frequency"])
def test_top_epsilon(run: Run, selector: str, ties: str, epsilon: float, chunk: int, monkeypatch: pytest.MonkeyPatch
                     ) -> None:  # fmt: skip
    monkeypatch.setattr(rows, "CHUNK_BYTES", chunk)
    sets = sj.identify(run, name="top", selector=selector, epsilon=epsilon, ties=ties)
    for group in GROUPS:
        p = scores_of(run, selector, f"{group}/positive_count")
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
    sets = sj.identify(run, name="pooled", selector="frequency", epsilon=0.1, pool=True, ties="exact")
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
@pytest.mark.parametrize("selector", ["excess", "frequency", "threshold"])
def test_experts(run: Run, selector: str, ties: str, fields: dict[str, Any]) -> None:
    sets = sj.identify(run, name="experts", selector=selector, ties=ties, **fields)
    f = scores_of(run, selector, "routed/selected_count").reshape(ROWS, 2, 4)
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


def test_a_set_is_replaced_whole_and_that_is_said(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    before = sj.identify(run, name="again", epsilon=0.3)
    size = before.size("mlp").sum()
    assert sj.identify(run, name="again", epsilon=0.3).digest == before.digest
    assert "replaces" not in capsys.readouterr().err
    after = sj.identify(run, name="again", epsilon=0.01)
    assert 0 < after.size("mlp").sum() < size / 2
    assert sj.open_sets(run, "again").manifest.selection["epsilon"] == 0.01
    assert after.digest != before.digest
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{run.location}/sets/again: replaces a set that differs (epsilon 0.3, now 0.01); results made of that one "
        f"must be made again"
    )
    with pytest.raises(InputError, match="expert_per_layer 9 is more than"):
        sj.identify(run, name="again", expert_per_layer=9)
    assert sj.open_sets(run, "again").digest == after.digest
    with pytest.raises(InputError, match=r"no set 'other'; the run has .*again.*"):
        sj.open_sets(run, "other")


def test_a_digest_is_of_selection_run_and_masks(run: Run) -> None:
    def digest(part: str = "", **changed: Any) -> str:
        attributes = run.manifest.to_json()
        attributes |= {part: attributes[part] | changed} if part else {}
        return sj.identify(Run(run.store, Manifest.from_json(attributes, "")), name="digest", epsilon=0.3).digest

    first = digest()
    assert digest() == first == digest("capture", keep="sets") == digest("model", path="elsewhere")
    assert first == sj.identify(run, name="other", epsilon=0.3).digest
    unlike = [digest(part, digest="x") for part in ("model", "tokenizer", "instructions")]
    unlike += [digest("capture", convention="product"), digest("execution", dtype="bfloat16")]
    unlike += [sj.identify(run, name="digest", epsilon=0.29).digest]
    counts = run.store.open_array("mlp/positive_count").spec().to_json()
    array = ts.open(counts, open=True).result()
    before = array[0, 0].read().result()
    array[0, 0].write((run.token_count[0] - before).astype(np.uint16)).result()
    unlike.append(digest())
    array[0, 0].write(before).result()
    assert len({first, *unlike}) == 8
    assert digest() == first


def test_empty_sets_are_warned_of_where_they_are_made(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    sets = sj.identify(run, name="empty", selector="frequency", epsilon=0.06, ties="drop", expert_per_layer=1)
    empty = int((sets.size("mlp") == 0).sum())
    assert 0 < empty < ROWS
    said = capsys.readouterr().err
    assert f"mlp: S(i) is empty for {empty} of {ROWS} instructions; evaluate, compare and ablate will refuse" in said
    with pytest.raises(InputError, match=rf"set 'empty': S\(i\) has no unit of mlp for {empty} of {ROWS} instructions"):
        sets.require_units()
    sj.identify(run, name="empty", epsilon=0.1).require_units()
    assert "empty for" not in capsys.readouterr().err


@pytest.mark.parametrize(("change", "message"), [
    ({"schema_version": 1}, r"sets/made/zarr\.json: schema_version is 1, this version reads 2; run identify again"),
    ({"schema_version": None}, "schema_version is None"),
    ({"groups": ["shared"]}, r"sets/made/zarr\.json: not the attributes of a set of this run"),
    ({"groups": None}, "not the attributes of a set"),
])  # fmt: skip
def test_a_set_of_another_schema_is_refused_and_replaced(run: Run, change: dict[str, Any], message: str) -> None:
    attributes = sj.identify(run, name="made").manifest.to_json()
    run.store.write_group("sets/made", attributes | change)
    with pytest.raises(InputError, match=message):
        sj.open_sets(run, "made")
    assert sj.identify(run, name="made").manifest.to_json() == attributes


@pytest.mark.parametrize(("fields", "message"), [
    ({"epsilon": 0.0}, r"epsilon must be within \(0, 1\]"),
    ({"epsilon": 1.5}, "epsilon"),
    ({"selector": "best"}, "selector 'best'"),
    ({"ties": "maybe"}, "ties 'maybe'"),
    ({"selector": "threshold", "threshold": 0.0}, "threshold must be within"),
    ({"selector": "threshold", "epsilon": 0.1}, r"^epsilon 0\.1 has no effect with selector threshold; leave it out$"),
    ({"selector": "threshold", "pool": True}, r"^pool True has no effect with selector threshold"),
    ({"threshold": 0.5}, r"^threshold 0\.5 has no effect with selector excess; leave it out$"),
    ({"expert_per_layer": 1, "expert_epsilon": 0.3}, r"^expert_per_layer 1 has no effect with expert_epsilon 0\.3"),
    ({"name": "../up"}, "name '../up'"),
    ({"expert_per_layer": 9}, "expert_per_layer 9 is more than the 4 experts"),
])  # fmt: skip
def test_bad_settings(run: Run, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sj.identify(run, **({"name": "bad"} | fields))
    assert "bad" not in {name.split("/")[1] for name in run.store.names() if name.endswith("bad/zarr.json")}


@pytest.mark.parametrize(("fields", "groups", "said"), [
    ({"pool": True}, ["mlp"], ["pool has no effect: mlp is the only group of neurons"]),
    ({"pool": True}, ["routed", "expert"], ["pool has no effect: routed is the only group of neurons"]),
    ({"pool": True}, ["mlp", "routed", "expert"], []),
    ({"expert_per_layer": 1}, ["mlp"], ["expert_per_layer 1 has no effect: the model has no routed experts"]),
    ({"expert_epsilon": 0.2}, ["mlp"], ["expert_epsilon 0.2 has no effect: the model has no routed experts"]),
    ({"expert_epsilon": 0.2, "ties": "drop"}, ["routed", "expert"], []),
    ({"selector": "threshold", "ties": "drop"}, ["mlp"],
     ["ties drop has no effect: nothing ties at a threshold, and the model has no routed experts"]),
    ({"selector": "threshold", "ties": "drop"}, ["routed", "expert"], []),
    ({"ties": "drop"}, ["mlp"], []),
])  # fmt: skip
def test_what_has_no_effect_on_a_model(fields: dict[str, Any], groups: list[str], said: list[str]) -> None:
    selection = Selection(**fields)
    selection.check()
    assert selection.idle(groups) == said


@pytest.mark.parametrize(("selector", "same"), [("excess", False), ("frequency", False), ("threshold", True)])
def test_what_is_refused_or_said_has_no_effect_indeed(run: Run, selector: str, same: bool) -> None:
    """Under a threshold, ties change experts only, and neither the share nor pooling changes anything."""

    def found(**fields: Any) -> dict[str, np.ndarray]:
        selection = Selection(selector=selector, **fields)
        cut = [*selection.cut_together([run.groups["mlp"], run.groups["routed"]]), [run.groups["expert"]]]
        rates = mean_rates(run, run.groups) if selector == "excess" else None
        of_group: dict[str, list[np.ndarray]] = {}
        for groups in cut:
            for _, masks, _ in select.cut_counts(run, selection, groups, select._wanted(run, selection, groups), rates):
                for group, mask in zip(groups, masks, strict=True):
                    of_group.setdefault(group.name, []).append(mask)
        return {group: np.stack(masks) for group, masks in of_group.items()}

    before = found()
    for fields in ({"epsilon": 0.3}, {"pool": True}, {"ties": "drop"}):
        after = found(**fields)
        assert all(np.array_equal(after[group], before[group]) for group in ("mlp", "routed")) == same
    assert not np.array_equal(after["expert"], before["expert"])


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
    assert int(mask.sum()) == min(wanted, np.count_nonzero(counts))
    assert mask[counts > cut].all()
    assert not mask[(counts < cut) | (counts == 0)].any()
    assert cut_excess([group.astype(np.float32) for group in groups], wanted) == cut
    unpacked = np.unpackbits(pack(mask), count=len(values), bitorder="little")
    np.testing.assert_array_equal(unpacked, mask)


def test_a_rate_weighs_categories_alike(run: Run) -> None:
    rates = mean_rates(run, run.groups)
    for group, array in (("mlp", "mlp/positive_count"), ("expert", "routed/selected_count")):
        p = run.read(array) / run.token_count.reshape(-1, *[1] * (len(run.groups[group].shape)))
        by_category = [p[run.category == category].mean(axis=0) for category in range(3)]
        np.testing.assert_allclose(rates[group], np.mean(by_category, axis=0), rtol=1e-12)


def test_what_is_always_on_is_of_no_instruction_by_excess(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """A unit that is on at every token, or never, is as expected everywhere, and no other unit fills its place."""
    counts = ts.open(run.store.open_array("mlp/positive_count").spec().to_json(), open=True).result()
    before = counts.read().result()
    always = np.zeros_like(before)
    always[:, :, :10] = run.token_count[:, None, None]
    always[5] = 0
    always[5, 0, 15] = run.token_count[5]
    counts.write(always).result()
    try:
        by_rate = masks(sj.identify(run, name="rate", epsilon=1.0, ties="exact"), "mlp")
        np.testing.assert_array_equal(np.flatnonzero(by_rate[5]), 15)
        assert by_rate[:, 10:21].sum() == 1
        assert by_rate[:, 31:].sum() == 0
        assert f"mlp: in {ROWS} instructions fewer units are above their own rate" in capsys.readouterr().err
        by_count = masks(sj.identify(run, name="count", selector="frequency", epsilon=1.0), "mlp")
        np.testing.assert_array_equal(by_count, always.reshape(ROWS, -1) > 0)
    finally:
        counts.write(before).result()
