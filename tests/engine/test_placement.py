"""Models of all groups of units over devices that share them, and steps that run side by side."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.placement import EDIT_SPECS, Placement, make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.select.cores import core
from tests import checkpoints

SECONDS = 20
DENSE_FIRST = {"num_hidden_layers": 2, "mlp_only_layers": [0]}
GROUPS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("llama", {"num_hidden_layers": 2}),
    "routed": ("olmoe", {"num_hidden_layers": 2}),
    "mlp routed": ("qwen3_moe", DENSE_FIRST),
    "shared routed": ("qwen2_moe", {"num_hidden_layers": 2}),
    "mlp shared routed": ("qwen2_moe", DENSE_FIRST),
}


@pytest.mark.parametrize("groups", GROUPS)
def test_devices_that_share_a_model_find_the_same(groups: str, instruction_file: Path, tmp_path: Path) -> None:
    """Counts and what switching units off does, whatever groups of units the model has."""
    family, fields = GROUPS[groups]
    model = convert(checkpoints.save_model(tmp_path / "hf", family, **fields), tmp_path / "model")
    instructions = sj.load_instructions(instruction_file)
    few = dataclasses.replace(instructions, rows=instructions.rows[1:10])
    whole, cut = (
        capture(model, few, tmp_path / placement, execution=ExecutionSettings(batch_tokens=512, placement=placement))
        for placement in ("pmap", "mesh:4")
    )
    assert [group for group in whole.groups if group != "expert"] == groups.split()
    for group in groups.split():
        one, other = (run.read(f"{group}/positive_count").astype(int) for run in (whole, cut))
        assert np.abs(one - other).sum() <= 1e-5 * one.size * whole.token_count.mean()
    units = core(sj.identify(whole, epsilon=0.1, expert_per_layer=1), 0.3)
    summaries = {}
    for placement in ("pmap", "mesh:2", "mesh:4"):
        execution = ExecutionSettings(batch_tokens=512, placement=placement)
        how = AblationSettings(draws=1, measured="all")
        summaries[placement] = ablate(model, whole, units, tmp_path / f"ablation-{placement}", how, execution)
    alone = summaries.pop("pmap")
    assert set(alone["targets"]) == ({"neurons", "experts"} if "routed" in groups else {"neurons"})
    for shared in summaries.values():
        np.testing.assert_allclose(shared["baseline"], alone["baseline"], rtol=1e-5)
        for target, found in alone["targets"].items():
            assert np.abs(found["delta"]).max() > 1e-3
            np.testing.assert_allclose(shared["targets"][target]["delta"], found["delta"], atol=2e-5)
            for name, control in found["controls"].items():
                mean = shared["targets"][target]["controls"][name]["mean"]
                np.testing.assert_allclose(mean, control["mean"], atol=2e-5)


@pytest.mark.parametrize(("asked", "kind", "grid"), [
    ("pmap", "pmap", {"data": 4, "model": 1}), ("mesh:1", "mesh", {"data": 4, "model": 1}),
    ("mesh:2", "mesh", {"data": 2, "model": 2}), ("mesh", "mesh", {"data": 1, "model": 4}),
])  # fmt: skip
def test_how_many_devices_share_a_batch(llama: ModelDir, asked: str, kind: str, grid: dict[str, int]) -> None:
    placement = make_placement(asked, llama.config)
    assert (placement.kind, dict(placement.mesh.shape)) == (kind, grid)


@pytest.mark.parametrize("asked", ["", "ring", "pmap:1", "pmap:", "mesh:", "mesh:0", "mesh:-2", "mesh:2.0", "mesh:+2",
                                   "mesh:two", "mesh:02", "mesh: 2", "mesh:2:2", "Mesh"])  # fmt: skip
def test_placements_that_are_not_known(llama: ModelDir, asked: str) -> None:
    with pytest.raises(InputError) as error:
        make_placement(asked, llama.config)
    assert str(error.value) == (
        f"execution.placement {asked!r} is not known; known: pmap, mesh, and mesh:N: N devices share a batch"
    )


@pytest.mark.parametrize("asked", ["mesh:3", "mesh:8"])
def test_devices_that_cannot_be_divided(llama: ModelDir, asked: str) -> None:
    with pytest.raises(InputError, match=rf"^execution\.placement '{asked}': \d does not divide the 4 local devices$"):
        make_placement(asked, llama.config)


@pytest.mark.parametrize(("asked", "parts"), [("pmap", 1), ("mesh:2", 2), ("mesh:4", 4)])
def test_what_is_not_there_lies_nowhere(llama: ModelDir, asked: str, parts: int) -> None:
    placement = make_placement(asked, llama.config)
    scale: Any = np.arange(24, dtype=np.float32).reshape(3, 1, 8)
    edits = Edits(mlp=NeuronEdit(scale), expert=np.eye(3, 8)[:, None] > 0)
    placed: Any = placement.put(edits, EDIT_SPECS)
    assert (placed.shared, placed.routed) == (NeuronEdit(), NeuronEdit())
    np.testing.assert_array_equal(placed.mlp.scale, scale)
    assert placed.mlp.scale.sharding.shard_shape((3, 1, 8)) == (3, 1, 8 // parts)
    assert placed.expert.sharding.shard_shape((3, 1, 8)) == (3, 1, 8)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(placed))


@pytest.fixture
def alone(llama: ModelDir, monkeypatch: pytest.MonkeyPatch) -> Placement:
    placement = make_placement("pmap", llama.config)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(2 * placement.data)))
    return placement


def test_results_come_in_the_order_of_the_calls(alone: Placement) -> None:
    def call(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number

    assert list(alone.run_ahead(partial(call, number) for number in range(20))) == list(range(20))


def test_two_cores_a_device_run_two_steps_at_a_time(alone: Placement) -> None:
    both = threading.Barrier(2, timeout=SECONDS)
    assert sorted(alone.run_ahead([both.wait, both.wait])) == [0, 1]


def test_devices_that_share_a_batch_begin_steps_in_order(llama: ModelDir) -> None:
    begun: list[tuple[int, int]] = []

    def call(number: int) -> None:
        time.sleep(0.002 * (number % 3))
        begun.append((number, threading.get_ident()))

    list(make_placement("mesh:2", llama.config).run_ahead(partial(call, number) for number in range(8)))
    assert [number for number, _ in begun] == list(range(8))
    assert len({thread for _, thread in begun}) == 1


def test_few_batches_are_made_before_they_are_needed(alone: Placement) -> None:
    made = 0

    def calls() -> Callable[[], int]:
        nonlocal made
        made += 1
        return partial(int, made)

    results = alone.run_ahead(calls() for _ in range(100))
    assert [next(results) for _ in range(3)] == [1, 2, 3]
    assert made <= 3 + 3


def test_an_error_comes_out_where_its_result_would(alone: Placement) -> None:
    def fails() -> int:
        raise ValueError("broken")

    results = alone.run_ahead([lambda: 1, fails, lambda: 3])
    assert next(results) == 1
    with pytest.raises(ValueError, match="broken"):
        next(results)
