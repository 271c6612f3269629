"""Steps that run side by side."""

import os
import threading
import time
from collections.abc import Callable
from functools import partial

import pytest

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.parallel import Placement, make_placement

SECONDS = 20


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
