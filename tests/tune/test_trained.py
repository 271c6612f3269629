"""Losses and gradients of everything that can be trained: against torch's, of every family and placement."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sparcom_jax.batches.packing import fill
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.batch import Shape
from sparcom_jax.tune.settings import TuneSettings
from sparcom_jax.tune.step import Steps, Sums
from sparcom_jax.tune.trained import (
    Rows,
    Trained,
    Values,
    train_all,
    train_layers,
    train_low_rank,
    train_slices,
)
from sparcom_jax.units.groups import EXPERT_GROUP
from tests import checkpoints
from tests.families import CASES, MLPS
from tests.parameters import ONE, groups_of, leaves_of, slices_of, some_units

SHAPE = Shape(128, 128, 4)
TEXTS = [np.random.default_rng(seed).integers(3, 200, size).astype(np.int32) for seed, size in enumerate((45, 30, 17))]
SCORED = [np.r_[np.zeros(len(text) // 2, bool), np.ones(len(text) - len(text) // 2 - 1, bool), False] for text in TEXTS]
TOKENS = sum(int(one.sum()) for one in SCORED)


def batches(devices: int) -> Any:
    """The texts on the first device; on others what there is besides, which is nothing."""
    all_of = [fill(SHAPE, TEXTS, SCORED)] + [fill(SHAPE, [], [])] * (devices - 1)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *all_of)


def gradient(model: ModelDir, trained: Trained, change: Callable[[Values], Values] = lambda values: values,
             placement: str = "pmap", **settings: Any) -> tuple[Values, Sums]:  # fmt: skip
    """The values and the sums of one batch."""
    placed = make_placement(placement, model.config)
    params = jax.tree.leaves(model.restore(placed.param_shardings(model.config), "float32"))
    steps = Steps(trained, placed, "float32", TuneSettings(**settings), 10)
    values = change(trained.begin(params, 0))
    training = steps.begin(values)
    kept = [params[number] for number in trained.kept]
    sums, fault = steps.add(SHAPE, kept, training.values, steps.nothing(), batches(placed.data))
    assert (np.asarray(fault) == np.iinfo(np.int32).max).all()
    return jax.device_get(values), jax.device_get(sums)


def torch_gradients(source: Path, scratch: Path) -> tuple[float, dict[str, np.ndarray]]:
    """Loss and gradients by transformers, these as a checkpoint, so that they come in the decoder's parameters."""
    reference = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager")
    total = torch.zeros(())
    for text, scored in zip(TEXTS, SCORED, strict=True):
        logits = reference(input_ids=torch.tensor(text)[None].long()).logits[0]
        nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(text[1:]).long(), reduction="none")
        total = total + nll[torch.tensor(scored[:-1])].sum()
    total.backward()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    reference.save_pretrained(scratch / "gradient")
    return float(total), leaves_of(convert(scratch / "gradient", scratch / "gradient-model"))


def close(mine: np.ndarray, theirs: np.ndarray, most: float, what: str) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=2e-4 * most, err_msg=what)


@pytest.mark.parametrize("case", MLPS, ids="-".join)
def test_gradients_are_those_of_torch(case: tuple[str, str], tmp_path: Path) -> None:
    family, name = case
    source = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][name])
    model = convert(source, tmp_path / "model")
    loss, wanted = torch_gradients(source, tmp_path)
    trained = train_all(model.config)
    _, sums = gradient(model, trained)
    assert float(sums.tokens) == TOKENS
    np.testing.assert_allclose(float(sums.nll), loss, rtol=1e-5)
    most = max(float(np.abs(one).max()) for one in wanted.values())
    assert most > 0
    leaves = jax.tree.leaves(jax.tree.unflatten(jax.tree.structure(trained.parts), sums.gradient.values()))
    for path, at in trained._stored.items():
        mine = sums.gradient[trained.leaves[at.leaf][0]]
        close(mine if at.repeat is None else mine[at.repeat], wanted[path], most, path)
    assert len(leaves) == len(trained.parts)


@pytest.fixture(scope="module", params=["llama", "moe", "gpt_oss", "deepseek_v2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    if request.param in ("llama", "moe"):
        found: ModelDir = request.getfixturevalue(request.param)
        return found
    path = tmp_path_factory.mktemp(request.param)
    return convert(
        checkpoints.save_model(path / "hf", request.param, **next(iter(CASES[request.param].values()))), path / "model"
    )
