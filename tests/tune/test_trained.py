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
from sparcom_jax.engine.placement import make_placement, one_device
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
from tests.parameters import ONE, groups_of, leaves_of, slices_of, some_units, tree_of

SHAPE = Shape(128, 128, 4)
TEXTS = [np.random.default_rng(seed).integers(3, 200, size).astype(np.int32) for seed, size in enumerate((45, 30, 17))]
SCORED = [np.arange(len(text)) >= len(text) // 2 for text in TEXTS]
for one in SCORED:
    one[-1] = False
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
    return float(total.detach()), leaves_of(convert(scratch / "gradient", scratch / "gradient-model"))


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
    for path, at in trained._stored.items():
        mine = sums.gradient[trained.leaves[at.leaf][0]]
        close(mine if at.repeat is None else mine[at.repeat], wanted[path], most, path)


@pytest.fixture(scope="module", params=["llama", "moe", "gpt_oss", "deepseek_v2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    if request.param in ("llama", "moe"):
        found: ModelDir = request.getfixturevalue(request.param)
        return found
    path = tmp_path_factory.mktemp(request.param)
    return convert(
        checkpoints.save_model(path / "hf", request.param, **next(iter(CASES[request.param].values()))), path / "model"
    )


def whole_gradient(model: ModelDir) -> tuple[Trained, Values]:
    trained = train_all(model.config)
    return trained, gradient(model, trained)[1].gradient


def parts_of(model: ModelDir, kind: str) -> Trained:
    groups = groups_of(model.config)
    masks = some_units(groups)
    if kind == "layers":
        return train_layers(model.config, [0, model.config.num_layers - 1])
    names = [name for name in groups if (name == EXPERT_GROUP) == (kind == "experts")]
    slices = [one for name in names for one in slices_of(model.config, groups[name], masks[name])]
    return train_slices(model.config, [one for one in slices if not one.role.startswith("router")])


def kinds_of(model: ModelDir) -> list[str]:
    return ["units", "layers", *(["experts"] if model.config.experts else [])]


def test_rows_have_the_gradient_of_their_part_of_the_parameters(model: ModelDir) -> None:
    _, wanted = whole_gradient(model)
    most = max(float(np.abs(one).max()) for one in wanted.values())
    for kind in kinds_of(model):
        trained = parts_of(model, kind)
        values, sums = gradient(model, trained)
        assert trained.count() == sum(one.size for one in values.values()) > 0
        for path, part in trained.parts.items():
            assert isinstance(part, Rows)
            where: list[Any] = [slice(None)] * wanted[path].ndim
            where[0] = part.at[:, 0]
            for axis, at in zip(part.axes, part.at[:, 1:].T, strict=True):
                where[1 + axis] = at
            close(sums.gradient[path], wanted[path][tuple(where)], most, f"{kind} {path}")
            assert len(np.unique(part.at, axis=0)) == len(part.at)


def test_products_of_low_rank(model: ModelDir) -> None:
    """Beside W, the gradient of scale A B is that of W at W + scale A B, by the chain rule."""
    trained = train_low_rank(model.config, 2, 6.0)

    def moved(values: Values) -> Values:
        random = np.random.default_rng(1)
        return jax.tree.map(lambda one: random.normal(0, 0.05, one.shape).astype(np.float32), values)

    values, sums = gradient(model, trained, moved)
    everything = train_all(model.config)

    def merged(whole: Values) -> Values:
        return {path: whole[path] + 3.0 * values[path]["a"] @ values[path]["b"] if path in values else whole[path]
                for path in whole}  # fmt: skip

    _, wanted = gradient(model, everything, merged)
    np.testing.assert_allclose(sums.nll, wanted.nll, rtol=1e-5)
    for path, value in values.items():
        of_kernel = wanted.gradient[path]
        most = 3.0 * float(np.abs(of_kernel).max())
        close(sums.gradient[path]["a"], 3.0 * of_kernel @ np.swapaxes(value["b"], 1, 2), most, path)
        close(sums.gradient[path]["b"], 3.0 * np.swapaxes(value["a"], 1, 2) @ of_kernel, most, path)
    begun = trained.begin(jax.tree.leaves(model.restore(ONE, "float32")), 0)
    assert all(np.abs(one["a"]).max() > 0 == np.abs(one["b"]).max() for one in begun.values())


@pytest.mark.parametrize("placement", ["pmap", "mesh:2"])
def test_devices_together_find_the_same(model: ModelDir, placement: str) -> None:
    for kind in ("all", "lora", *kinds_of(model)):
        trained = {"all": lambda: train_all(model.config), "lora": lambda: train_low_rank(model.config, 2, 6.0)}.get(
            kind, lambda kind=kind: parts_of(model, kind)
        )()
        one = gradient_on_one(model, trained)
        _, sums = gradient(model, trained, placement=placement)
        np.testing.assert_allclose(sums.nll, one.nll, rtol=1e-5)
        pairs = zip(jax.tree.leaves(sums.gradient), jax.tree.leaves(one.gradient), strict=True)
        most = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(one.gradient))
        for number, (mine, theirs) in enumerate(pairs):
            close(mine, theirs, most, f"{kind} {number}")


def gradient_on_one(model: ModelDir, trained: Trained) -> Sums:
    """All texts on the first of one device."""
    placed = one_device()
    params = jax.tree.leaves(model.restore(ONE, "float32"))
    steps = Steps(trained, placed, "float32", TuneSettings(recompute=True), 10)
    values = steps.begin(trained.begin(params, 0)).values
    sums, _ = steps.add(SHAPE, [params[number] for number in trained.kept], values, steps.nothing(), batches(1))
    found: Sums = jax.device_get(sums)
    return found


def test_what_is_stored_of_it(model: ModelDir) -> None:
    """Only what is trained differs, and it is what stands in the place of the parameters while they are trained."""
    before = leaves_of(model)
    for kind in ("all", "lora", *kinds_of(model)):
        trained = {"all": lambda: train_all(model.config), "lora": lambda: train_low_rank(model.config, 2, 6.0)}.get(
            kind, lambda kind=kind: parts_of(model, kind)
        )()
        values = jax.device_get(trained.begin(jax.tree.leaves(model.restore(ONE, "float32")), 0))
        if kind != "lora":
            for path, one in before.items():
                np.testing.assert_array_equal(trained.stored(values, path, one), one, path)
        random = np.random.default_rng(0)
        moved = (
            {path: one + random.normal(0, 0.1, one.shape) for path, one in values.items()}
            if kind != "lora"
            else {
                path: {name: one + random.normal(0, 0.1, one.shape) for name, one in both.items()}
                for path, both in values.items()
            }
        )
        moved = jax.tree.map(np.float32, moved)
        changed = {path: trained.stored(moved, path, one) for path, one in before.items()}
        count = sum(int(np.count_nonzero(changed[path] != one)) for path, one in before.items())
        if kind != "lora":
            assert count == trained.count()
        tree = tree_of(model.config, changed)
        loss = float(gradient(model, train_all(model.config), lambda values, tree=tree: in_values(model, tree))[1].nll)
        np.testing.assert_allclose(gradient(model, trained, lambda _, moved=moved: moved)[1].nll, loss, rtol=1e-5)


def in_values(model: ModelDir, tree: Any) -> Values:
    trained = train_all(model.config)
    return {path: leaf for (path, _), leaf in zip(trained.leaves, jax.tree.leaves(tree), strict=True)}
