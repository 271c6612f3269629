"""Losses and gradients of everything that can be trained: against torch's, of every family and placement."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from sparcom_jax.batches.packing import fill
from sparcom_jax.convert.adapter import write_adapter
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.patches import LowRankPatch
from sparcom_jax.models.stored import stored_params
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
from sparcom_jax.tune.write import _products
from sparcom_jax.units.groups import EXPERT_GROUP
from tests import checkpoints
from tests.families import CASES, MLPS
from tests.parameters import ONE, groups_of, leaves_of, slices_of, some_units

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
    for path, at in stored_params(model.config).items():
        mine = sums.gradient[trained.leaves[at.leaf][0]]
        close(mine if at.repeat is None else mine[at.repeat], wanted[path], most, path)


@pytest.fixture(scope="module")
def models(llama: ModelDir, moe: ModelDir, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelDir]:
    found = {"llama": llama, "moe": moe}
    for family in ("gpt_oss", "deepseek_v2"):
        path = tmp_path_factory.mktemp(family)
        source = checkpoints.save_model(path / "hf", family, **next(iter(CASES[family].values())))
        found[family] = convert(source, path / "model")
    return found


@pytest.fixture(scope="module")
def whole(models: dict[str, ModelDir]) -> Callable[[str], Values]:
    """The gradient of all parameters of a model."""
    return cache(lambda name: gradient(models[name], train_all(models[name].config))[1].gradient)


def parts_of(model: ModelDir, kind: str) -> Trained:
    """All neurons, experts, or layers that are trained in a test."""
    if kind == "all":
        return train_all(model.config)
    if kind == "lora":
        return train_low_rank(model.config, 2, 6.0)
    if kind == "layers":
        return train_layers(model.config, [0, model.config.num_layers - 1])
    groups = groups_of(model.config)
    masks = some_units(groups)
    names = [name for name in groups if (name == EXPERT_GROUP) == (kind == "experts")]
    slices = [one for name in names for one in slices_of(model.config, groups[name], masks[name])]
    return train_slices(model.config, [one for one in slices if not one.role.startswith("router")])


def rows_of(part: Rows, leaf: np.ndarray) -> np.ndarray:
    where: list[Any] = [slice(None)] * leaf.ndim
    where[0] = part.at[:, 0]
    for axis, at in zip(part.axes, part.at[:, 1:].T, strict=True):
        where[1 + axis] = at
    return np.asarray(leaf[tuple(where)])


def changed(values: Values, size: float) -> Values:
    random = np.random.default_rng(1)
    return jax.tree.map(lambda one: (np.asarray(one) + random.normal(0, size, one.shape)).astype(np.float32), values)


@pytest.mark.parametrize(
    ("name", "kind", "placement"),
    [
        ("llama", "units", "pmap"),
        ("llama", "layers", "mesh:2"),
        ("moe", "units", "mesh:2"),
        ("moe", "experts", "pmap"),
        ("gpt_oss", "units", "pmap"),
        ("gpt_oss", "experts", "mesh:2"),
        ("deepseek_v2", "units", "mesh:2"),
    ],
)
def test_rows_have_the_gradient_of_their_part_of_the_parameters(
    name: str, kind: str, placement: str, models: dict[str, ModelDir], whole: Callable[[str], Values]
) -> None:
    wanted = whole(name)
    most = max(float(np.abs(one).max()) for one in wanted.values())
    trained = parts_of(models[name], kind)
    values, sums = gradient(models[name], trained, placement=placement, recompute=True)
    assert trained.count() == sum(one.size for one in values.values()) > 0
    for path, part in trained.parts.items():
        assert isinstance(part, Rows)
        close(sums.gradient[path], rows_of(part, wanted[path]), most, path)
        assert len(np.unique(part.at, axis=0)) == len(part.at)


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_devices_together_find_the_same(name: str, models: dict[str, ModelDir], whole: Callable[[str], Values]) -> None:
    wanted = whole(name)
    _, sums = gradient(models[name], train_all(models[name].config), placement="mesh:2")
    most = max(float(np.abs(one).max()) for one in wanted.values())
    for path, one in wanted.items():
        close(sums.gradient[path], one, most, path)


@pytest.mark.parametrize(("name", "placement"), [("llama", "mesh:2"), ("moe", "pmap"), ("deepseek_v2", "mesh:2")])
def test_products_of_low_rank(name: str, placement: str, models: dict[str, ModelDir]) -> None:
    """Beside W, the gradient of scale A B is that of W at W + scale A B, by the chain rule."""
    model = models[name]
    trained = parts_of(model, "lora")
    values, sums = gradient(model, trained, lambda begun: changed(begun, 0.05), placement)

    def merged(whole: Values) -> Values:
        return {path: whole[path] + 3.0 * values[path]["a"] @ values[path]["b"] if path in values else whole[path]
                for path in whole}  # fmt: skip

    _, wanted = gradient(model, train_all(model.config), merged)
    np.testing.assert_allclose(sums.nll, wanted.nll, rtol=1e-5)
    for path, value in values.items():
        of_kernel = wanted.gradient[path]
        most = 3.0 * float(np.abs(of_kernel).max())
        close(sums.gradient[path]["a"], 3.0 * of_kernel @ np.swapaxes(value["b"], 1, 2), most, path)
        close(sums.gradient[path]["b"], 3.0 * np.swapaxes(value["a"], 1, 2) @ of_kernel, most, path)
    begun = trained.begin(jax.tree.leaves(model.restore(ONE, "float32")), 0)
    assert all(np.abs(one["a"]).max() > 0 == np.abs(one["b"]).max() for one in begun.values())


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in ("llama", "moe", "gpt_oss", "deepseek_v2")
        for kind in ("all", "lora", "layers", "units", "experts")
        if (name, kind) != ("llama", "experts")
    ],
)
def test_what_is_stored_is_what_was_trained(name: str, kind: str, models: dict[str, ModelDir]) -> None:
    """Nothing else differs, and it is what stands in the place of the parameters while they are trained."""
    model = models[name]
    before, trained = leaves_of(model), parts_of(model, kind)
    leaves = jax.tree.leaves(model.restore(ONE, "float32"))
    values = jax.device_get(trained.begin(leaves, 0))
    if kind != "lora":
        for path, one in before.items():
            np.testing.assert_array_equal(trained.stored(values, path, one), one, path)
    moved = changed(values, 0.1)
    after = {path: trained.stored(moved, path, one) for path, one in before.items()}
    if kind != "lora":
        assert sum(int(np.count_nonzero(after[path] != one)) for path, one in before.items()) == trained.count()
    params, patches = trained.bound(
        [leaves[number] for number in trained.kept], jax.tree.map(jnp.asarray, moved), None, "float32"
    )
    flat = jax.tree.leaves(params)
    for path, at in stored_params(model.config).items():
        used = flat[at.leaf] if at.repeat is None else flat[at.leaf][at.repeat]
        if path.startswith("layers/"):
            assert at.repeat is not None
            segment, position, _ = model.config.location(int(path.split("/")[1]))
            patch = patches.of[segment][position].get(path.split("/", 2)[2])
            if patch is not None:
                own: Any = jax.tree.map(lambda leaf, repeat=at.repeat: leaf[repeat], patch)
                low = isinstance(own, LowRankPatch)
                used = used + own.scale * (own.a @ own.b) if low else own.apply(used)
        np.testing.assert_allclose(after[path], used, rtol=0, atol=1e-6, err_msg=path)


@pytest.mark.parametrize("family", ["phi3", "gpt_neox", "qwen2_moe", "deepseek_v2"])
def test_an_adapter_of_tensors_that_hold_several_parameters(family: str, tmp_path: Path) -> None:
    """Written in PEFT's format and merged again, it makes the parameters that were trained."""
    source = checkpoints.save_model(tmp_path / "hf", family, **next(iter(CASES[family].values())))
    model = convert(source, tmp_path / "model")
    trained = train_low_rank(model.config, 2, 6.0)
    values = changed(jax.device_get(trained.begin(jax.tree.leaves(model.restore(ONE, "float32")), 0)), 0.1)
    (tmp_path / "adapter").mkdir()
    write_adapter(model.config, _products(trained, values), 6.0, str(source), tmp_path / "adapter")
    merged = leaves_of(convert(source, tmp_path / "merged", adapter=tmp_path / "adapter"))
    before = leaves_of(model)
    assert any((merged[path] != one).any() for path, one in before.items())
    for path, one in before.items():
        np.testing.assert_allclose(merged[path], trained.stored(values, path, one), rtol=0, atol=1e-5, err_msg=path)
