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
from sparcom_jax.capture.engine import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.causal.ablate import AblationSettings, ablate
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.placement import EDIT_SPECS, Placement, make_placement
from sparcom_jax.models.edits import Edits, NeuronEdit
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
        capture(model, few, tmp_path / placement,
                CaptureSettings(batch_tokens=512, placement=placement, model_parallel=parts))
        for placement, parts in (("pmap", 1), ("mesh", 4))
    )  # fmt: skip
    assert [group for group in whole.groups if group != "expert"] == groups.split()
    for group in groups.split():
        one, other = (run.read(f"{group}/positive_count").astype(int) for run in (whole, cut))
        assert np.abs(one - other).sum() <= 1e-5 * one.size * whole.token_count.mean()
    sj.identify(whole, epsilon=0.1, expert_per_layer=1)
    summaries = {}
    for placement, parts in (("pmap", 1), ("mesh", 2), ("mesh", 4)):
        how = AblationSettings(rho=0.3, draws=1, placement=placement, model_parallel=parts, batch_tokens=512)
        summaries[parts] = ablate(model, whole, tmp_path / f"ablation{parts}", how)
    assert set(summaries[1]["targets"]) == ({"neurons", "experts"} if "routed" in groups else {"neurons"})
    for parts in (2, 4):
        np.testing.assert_allclose(summaries[parts]["baseline"], summaries[1]["baseline"], rtol=1e-5)
        for target, found in summaries[1]["targets"].items():
            assert np.abs(found["delta"]).max() > 1e-3
            for name in ("delta", "random_mean"):
                np.testing.assert_allclose(summaries[parts]["targets"][target][name], found[name], atol=2e-5)


@pytest.mark.parametrize(("kind", "parts"), [("pmap", 1), ("mesh", 2), ("mesh", 4)])
def test_what_is_not_there_lies_nowhere(llama: ModelDir, kind: str, parts: int) -> None:
    placement = make_placement(kind, parts, llama.config)
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
    placement = make_placement("pmap", 1, llama.config)
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

    list(make_placement("mesh", 2, llama.config).run_ahead(partial(call, number) for number in range(8)))
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
