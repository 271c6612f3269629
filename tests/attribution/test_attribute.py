"""Attribution against torch's autograd through transformers, finite differences, and its own completeness."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.attribution import attribute as attribute_module
from sparcom_jax.attribution.attribute import attribute
from sparcom_jax.attribution.settings import AttributeSettings
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.causal.texts import texts_of
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.models.context import Compute
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import default_kernels
from sparcom_jax.store import attribution as store_module
from sparcom_jax.store.attribution import open_attribution
from sparcom_jax.verify.reference import Reference, _activations
from tests.models.losses import SHAPE, batch_of

EXECUTION = ExecutionSettings(batch_tokens=256)
INTEGRATED = AttributeSettings(method="integrated", steps=32)


def some(instruction_file: Path, count: int) -> InstructionSet:
    whole = sj.load_instructions(instruction_file)
    return InstructionSet("some", [row | {"instruction": row["instruction"][:90]} for row in whole.rows[:count]],
                          whole.categories)  # fmt: skip


@pytest.fixture(scope="module")
def moe_run(moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    return capture(moe, some(instruction_file, 9), tmp_path_factory.mktemp("moe") / "run", execution=EXECUTION)


@pytest.fixture(scope="module")
def llama_run(llama: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    return capture(llama, some(instruction_file, 9), tmp_path_factory.mktemp("llama") / "run", execution=EXECUTION)


def torch_attribution(source: Path, run: sj.Run, texts: Any, text: int) -> dict[str, np.ndarray]:
    """Activation times gradient at every input of down_proj and at every expert's weighted output, by autograd."""
    reference = Reference(source, torch.float64)
    read: list[tuple[str, tuple[int, ...], torch.Tensor]] = []

    def keep(group: str, at: tuple[int, ...], values: torch.Tensor) -> torch.Tensor:
        values.retain_grad()
        read.append((group, at, values))
        return values

    def down(group: str, index: int) -> Any:
        return lambda _, inputs: (keep(group, (index,), inputs[0]),)

    def experts(module: Any, index: int) -> Any:
        def forward(x: torch.Tensor, chosen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            y = torch.zeros_like(x)
            for expert in chosen.unique().tolist():
                token, choice = torch.where(chosen == expert)
                product = keep("routed", (index, expert), _activations(module, expert, x[token])[1])
                out = keep(
                    "expert", (index, expert), product @ module.down_proj[expert].T * weight[token, choice, None]
                )
                y = y.index_add(0, token, out)
            return y

        return forward

    for name, group in run.groups.items():
        for index, layer in enumerate(group.layers):
            mlp = reference.model.get_submodule(f"{reference.layer(layer)}.mlp")
            if name == "routed":
                mlp.experts.forward = experts(mlp.experts, index)
            elif name != "expert":
                (mlp.shared_expert if name == "shared" else mlp).down_proj.register_forward_pre_hook(down(name, index))
    ids = torch.tensor(texts.ids[text])[None].long()
    logits = reference.model(ids).logits[0]
    at = np.flatnonzero(texts.predicting(text))
    log_likelihood = torch.log_softmax(logits, -1)[at, ids[0, at + 1]].mean()
    log_likelihood.backward()
    found = {name: np.zeros(group.shape) for name, group in run.groups.items()}
    for name, place, values in read:
        product = (values.detach() * values.grad).reshape(-1, values.shape[-1])
        found[name][place] = product.sum().item() if name == "expert" else product.sum(0).numpy()
    return found


@pytest.mark.parametrize("kind", ["llama", "moe"])
def test_activation_times_gradient_is_that_of_autograd(kind: str, request: pytest.FixtureRequest) -> None:
    model, run = request.getfixturevalue(kind), request.getfixturevalue(f"{kind}_run")
    made = attribute(model, run, execution=EXECUTION)
    texts = texts_of(model, run, np.arange(9))
    for text in (0, 4):
        expected = torch_attribution(request.getfixturevalue(f"hf_{kind}"), run, texts, text)
        assert expected.keys() == made.groups.keys()
        for group, values in expected.items():
            found = made.value(group)[text].read().result()
            assert np.abs(values).max() > 1e-5
            np.testing.assert_allclose(found, values, rtol=0, atol=2e-4 * np.abs(values).max(), err_msg=group)


def test_single_units_by_finite_differences(llama: ModelDir, llama_run: sj.Run) -> None:
    """Each unit alone a little louder and a little quieter."""
    made = attribute(llama, llama_run, execution=EXECUTION)
    placed = place_model(llama, make_placement("pmap", llama.config), "float32")
    texts = texts_of(llama, llama_run, np.arange(9))
    likelihood = Likelihood(placed, texts, [str(i) for i in range(9)], 256)
    group, step = llama_run.groups["mlp"], 0.05
    values = np.asarray(made.value("mlp").read().result())
    largest = np.abs(values).mean(axis=0)
    for unit in np.argsort(-largest, axis=None)[:3]:
        at = np.unravel_index(unit, group.shape)

        def beside(by: float, at: Any = at) -> np.ndarray:
            scale = np.ones((len(group.layers), 1, *group.sizes), np.float32)
            scale[at[0], 0, at[1]] += by
            return -likelihood.mean_nll(Edits(mlp=NeuronEdit(jnp.asarray(scale))), "")

        slope = (beside(step) - beside(-step)) / (2 * step)
        np.testing.assert_allclose(values[(slice(None), *at)], slope, rtol=0, atol=0.01 * np.abs(slope).max())


def together(model: ModelDir, run: sj.Run) -> Callable[[float], np.ndarray]:
    """The log likelihood of each response with the inputs of every `down_proj` multiplied by a number."""
    placed = place_model(model, make_placement("pmap", model.config), "float32")
    likelihood = Likelihood(placed, texts_of(model, run, np.arange(9)), [str(i) for i in range(9)], 256)
    groups = [group for name, group in run.groups.items() if name != "expert"]

    def log_likelihood(scale: float) -> np.ndarray:
        ones = {group.name: np.full((len(group.layers), 1, *group.sizes), scale, np.float32) for group in groups}
        return -likelihood.mean_nll(Edits(**{name: NeuronEdit(one) for name, one in ones.items()}), "")

    return log_likelihood


def test_integrated_values_add_up_to_what_all_units_together_do(llama: ModelDir, llama_run: sj.Run) -> None:
    made, log_likelihood = attribute(llama, llama_run, INTEGRATED, EXECUTION), together(llama, llama_run)
    change = log_likelihood(1.0) - log_likelihood(0.0)
    assert np.abs(change).max() > 0.01
    total = np.asarray(made.value("mlp").read().result()).sum(axis=(1, 2))
    np.testing.assert_allclose(total, change, rtol=0, atol=0.01 * np.abs(change).max())


def test_on_the_path_neurons_and_experts_add_up_to_the_slope(moe: ModelDir, moe_run: sj.Run) -> None:
    """In the middle of it, but for texts of which a router chooses others just there: their likelihood jumps."""
    half = AttributeSettings(method="integrated", steps=1)
    made, log_likelihood = attribute(moe, moe_run, half, EXECUTION), together(moe, moe_run)
    values = {name: np.asarray(made.value(name).read().result()) for name in made.groups}
    before, here, after = (log_likelihood(0.5 + by) for by in (-0.0005, 0.0, 0.0005))
    slope = (after - before) / 0.001
    smooth = np.isclose(after - here, here - before, rtol=0.02, atol=2e-5)
    assert smooth.sum() >= 6
    total = sum(values[name].reshape(9, -1).sum(axis=1) for name in ("mlp", "shared", "expert"))
    assert np.abs(slope[smooth]).max() > 0.01
    np.testing.assert_allclose(total[smooth], slope[smooth], rtol=0, atol=0.02 * np.abs(slope[smooth]).max())
    of_neurons = values["routed"].sum(axis=-1)
    np.testing.assert_allclose(of_neurons, values["expert"], rtol=0, atol=1e-4 * np.abs(of_neurons).max())


def test_devices_that_share_a_model_say_the_same(moe: ModelDir, moe_run: sj.Run) -> None:
    whole = attribute(moe, moe_run, execution=EXECUTION)
    values = {name: np.asarray(whole.value(name).read().result()) for name in whole.groups}
    placement = make_placement("mesh:2", moe.config)
    texts = texts_of(moe, moe_run, np.arange(9))
    shared = attribute_module.Values(place_model(moe, placement, "float32"), texts, [str(i) for i in range(9)],
                                     (1.0,), moe_run.groups)  # fmt: skip
    (bins,) = attribute_module.make_plan(texts.lengths, 9, 256).blocks
    advanced: list[int] = []
    for name, found in shared.of(bins, slice(0, 9), advanced.append).items():
        np.testing.assert_allclose(found, values[name], rtol=0, atol=1e-4 * np.abs(values[name]).max(), err_msg=name)
    assert sum(advanced) == 9


class Killed(Exception):
    pass


def test_it_goes_on_after_a_kill_with_the_same_bits(
    llama: ModelDir, llama_run: sj.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_ROWS_PER_BLOCK", 2)
    monkeypatch.setattr(attribute_module, "GRADIENT_BYTES", 1)  # a text a batch, or as few as a shape has
    runs = [sj.open_run(shutil.copytree(llama_run.location, tmp_path / name)) for name in ("killed", "whole")]
    for run in runs:
        shutil.rmtree(Path(run.location) / "attribution", ignore_errors=True)
    with pytest.raises(InputError, match=r"attribution/gradient: the run has no attribution by method gradient"):
        open_attribution(runs[0], "gradient")
    once, made = attribute_module.Values.of, []

    def dies(self: Any, bins: Any, rows: slice, advance: Any) -> Any:
        if len(made) == 2:
            raise Killed
        made.append(rows)
        return once(self, bins, rows, advance)

    monkeypatch.setattr(attribute_module.Values, "of", dies)
    with pytest.raises(Killed):
        attribute(llama, runs[0], execution=EXECUTION)
    with pytest.raises(InputError, match="is incomplete: run the same attribute command again"):
        open_attribution(runs[0], "gradient")
    monkeypatch.setattr(attribute_module.Values, "of", once)
    with pytest.raises(InputError, match=r"was made with another execution .*; delete it"):
        attribute(llama, runs[0], execution=replace(EXECUTION, batch_tokens=512))
    for run in runs:
        attribute(llama, run, execution=EXECUTION)
    files = [{path.relative_to(run.location): path.read_bytes()
              for path in Path(run.location, "attribution").rglob("*") if path.is_file()} for run in runs]  # fmt: skip
    assert files[0] == files[1]
    assert len([path for path in files[0] if "value/c" in str(path)]) == 5
    monkeypatch.setattr(attribute_module.Values, "of", dies)
    assert attribute(llama, runs[0], execution=EXECUTION).method == "gradient"  # nothing is left to do


def test_what_is_refused(llama: ModelDir, moe: ModelDir, llama_run: sj.Run, tmp_path: Path) -> None:
    for settings, message in (
        (AttributeSettings("shapley"), "method 'shapley' is not known; known: gradient, integrated"),
        (AttributeSettings("integrated", 0), "steps must be positive, got 0"),
        (AttributeSettings(steps=3), "steps 3 has no effect with method gradient"),
    ):
        with pytest.raises(InputError, match=message):
            attribute(llama, llama_run, settings)
    with pytest.raises(InputError, match="was captured from another model"):
        attribute(moe, llama_run)
    copy = Path(shutil.copytree(llama_run.location, tmp_path / "run"))
    rows = [json.loads(line) for line in (copy / "instructions.jsonl").read_text().splitlines()]
    rows[3]["response"] = None
    (copy / "instructions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match="r3"):
        attribute(llama, sj.open_run(copy))


def test_the_first_instructions_of_each_category(llama: ModelDir, llama_run: sj.Run, tmp_path: Path) -> None:
    whole = attribute(llama, llama_run, execution=EXECUTION)
    run = sj.open_run(shutil.copytree(llama_run.location, tmp_path / "run"))
    shutil.rmtree(tmp_path / "run" / "attribution")
    some = attribute(llama, run, AttributeSettings(per_category=2), EXECUTION)
    rows = [row for index in range(len(run.categories)) for row in np.flatnonzero(run.category == index)[:2]]
    assert some.rows.tolist() == sorted(rows)
    assert len(some.rows) < len(whole.rows) == len(run.instructions)
    values = [np.asarray(one.value("mlp").read().result()) for one in (some, whole)]
    np.testing.assert_allclose(values[0], values[1][some.rows], rtol=0, atol=1e-5 * np.abs(values[1]).max())
    with pytest.raises(InputError, match=r"was made with another per_category \(2, now 0\); delete it"):
        attribute(llama, run, execution=EXECUTION)


def test_layers_that_are_computed_anew_need_less_memory_and_say_the_same(llama: ModelDir) -> None:
    params, batch = llama.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32"), batch_of()

    def compiled(recompute: bool) -> Any:
        compute = Compute(None, default_kernels(), "nothing" if recompute else "everything")

        def total(scale: jax.Array) -> jax.Array:
            edits = Edits(mlp=NeuronEdit(scale))
            return jnp.sum(bind(llama.config, params)(batch, SHAPE, edits=edits, compute=compute).hidden[:100] ** 3)

        return jax.jit(jax.grad(total)).lower(scale).compile()

    scale = jnp.ones((3, 1, 80))
    kept, anew = compiled(False), compiled(True)
    np.testing.assert_allclose(anew(scale), kept(scale), rtol=0, atol=1e-4 * np.abs(kept(scale)).max())
    assert anew.memory_analysis().temp_size_in_bytes < kept.memory_analysis().temp_size_in_bytes
