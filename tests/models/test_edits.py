"""Edits against transformers whose modules are edited by hooks, and against loops in NumPy."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from sparcom_jax.capture.statistics import Statistics
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.models.config import DecoderConfig, Experts
from sparcom_jax.models.decoder import Batch, bind
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.kernels.choice import ExpertsKernel, default_kernels
from sparcom_jax.models.moe import RoutedExperts
from sparcom_jax.models.taps import Reduce
from sparcom_jax.units.groups import model_groups
from tests.models.losses import LENGTHS, SHAPE, EditedReference, batch_of, losses, texts

ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])
KERNELS = get_args(ExpertsKernel)


def random_edits(config: DecoderConfig, variants: int, *, scale: str = "random", shift: bool = True) -> Edits:
    """Edits of all groups; under each variant but the first, the router may not choose one expert of each layer."""
    random = np.random.default_rng(0)
    fields: dict[str, Any] = {}
    for group in model_groups(config):
        shape = (group.shape[0], variants, *group.shape[1:])
        scales = {"none": None, "ones": np.ones(shape), "half": np.full(shape, 0.5),
                  "zero": random.random(shape) < 0.7, "random": random.random(shape) + 0.5}[scale]  # fmt: skip
        shifts = random.standard_normal(shape) / 10 if shift else None
        fields[group.name] = NeuronEdit(
            *(None if values is None else jnp.asarray(values, jnp.float32) for values in (scales, shifts))
        )
        if group.name == "routed":
            may = np.ones((group.shape[0], variants, group.sizes[0]), bool)
            may[:, np.arange(1, variants), random.permutation(group.sizes[0])[: variants - 1]] = False
            fields["expert"] = jnp.asarray(may)
    return Edits(**fields)


def of_variant(edits: Edits, variant: int) -> Edits:
    return jax.tree.map(lambda values: values[:, variant : variant + 1], edits)


@pytest.fixture(scope="module")
def reference(hf_moe: Path, moe: ModelDir) -> EditedReference:
    return EditedReference(hf_moe, moe.config)


@pytest.fixture(scope="module")
def params(moe: ModelDir) -> Any:
    return moe.restore(ONE, "float32")


def our_losses(model: ModelDir, params: Any, edits: Edits | None, variants: list[int] | None = None,
               kernel: ExpertsKernel = "pieces") -> np.ndarray:  # fmt: skip
    kernels = replace(default_kernels(), experts=kernel)
    found = jax.jit(losses, static_argnums=(0, 4))(model.config, params, batch_of(variants), edits, kernels)
    return np.asarray(found)[: len(LENGTHS)]


def taps_of(config: DecoderConfig, params: Any, batch: Batch, edits: Edits, reduce: Reduce) -> dict[str, Any]:
    shape = replace(SHAPE, slots=len(batch.token))

    @jax.jit
    def forward(params: Any, edits: Edits) -> Any:
        decoder = bind(config, params)
        return decoder(batch, shape, edits=edits, reduce=reduce).taps

    return forward(params, edits)


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("scale", ["none", "zero", "half"])
def test_neurons_become_scale_times_product_plus_shift(
    scale: str, shift: bool, moe: ModelDir, params: Any, reference: EditedReference
) -> None:
    edits = random_edits(moe.config, 1, scale=scale, shift=shift)
    found = our_losses(moe, params, edits)
    expected = [reference.loss(ids, edits) for ids in texts()]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    changed = np.abs(found / our_losses(moe, params, None) - 1)
    assert (changed.max() > 1e-3) == (scale != "none" or shift)


@pytest.mark.parametrize("kernel", KERNELS)
def test_each_text_is_under_its_variant(
    kernel: ExpertsKernel, moe: ModelDir, params: Any, reference: EditedReference
) -> None:
    variants = [2, 0, 1, 2, 1, 0]
    edits = random_edits(moe.config, 3)
    found = our_losses(moe, params, edits, variants, kernel)
    expected = [reference.loss(ids, edits, under) for ids, under in zip(texts(), variants, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    alone = [our_losses(moe, params, of_variant(edits, variant), kernel=kernel) for variant in range(3)]
    np.testing.assert_allclose(found, [alone[under][text] for text, under in enumerate(variants)], rtol=1e-5)


def test_a_gate_of_zero_is_an_expert_whose_neurons_are_all_off(
    moe: ModelDir, params: Any, reference: EditedReference
) -> None:
    """No other expert takes its place, and at scale 1 a gate's gradient is the sum of those of the neurons."""
    edits = random_edits(moe.config, 2, scale="ones", shift=False)._replace(expert=None)
    gate = np.ones((len(moe.config.moe_layers), 2, 8), np.float32)
    gate[:, 1, 2:5] = 0
    variants = [0, 1, 0, 1, 1, 0]
    found = our_losses(moe, params, edits._replace(gate=jnp.asarray(gate)), variants)
    off = edits._replace(routed=NeuronEdit(edits.routed.scale * gate[..., None]))
    expected = [reference.loss(ids, off, under) for ids, under in zip(texts(), variants, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    whole = edits._replace(gate=jnp.ones_like(gate))
    gradient = jax.grad(lambda edits: losses(moe.config, params, batch_of(variants), edits).sum())(whole)
    of_neurons = np.asarray(gradient.routed.scale).sum(axis=-1)
    np.testing.assert_allclose(gradient.gate, of_neurons, rtol=0, atol=1e-5 * np.abs(of_neurons).max())


def test_experts_are_masked_for_their_variant_only(moe: ModelDir, params: Any) -> None:
    assert moe.config.experts is not None
    layers, experts = len(moe.config.moe_layers), moe.config.experts.count
    expert = np.ones((layers, 2, experts), bool)
    expert[:, 1, :5] = False
    batch = batch_of([0, 1, 0, 1, 1, 0])
    taps = taps_of(moe.config, params, batch, Edits(expert=jnp.asarray(expert)), lambda taps: taps)
    chosen, used = np.asarray(taps["routed"].chosen), np.asarray(batch.row) < SHAPE.rows
    under = np.asarray(batch.variant)
    assert set(np.unique(chosen[:, used & (under == 1)])) == {5, 6, 7}
    assert set(np.unique(chosen[:, used & (under == 0)])) == set(range(experts))
    assert (chosen[:, ~used] == experts).all()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("variants", [1, 3])
def test_entries_get_the_edit_of_their_slot_and_expert(kernel: ExpertsKernel, variants: int) -> None:
    slots, real, count, width, neurons = 160, 150, 6, 16, 48
    random = np.random.default_rng(0)
    experts = RoutedExperts(width, Experts(count, 2, neurons, normalize=False), "silu", nnx.Rngs(0))
    x = random.standard_normal((slots, width)).astype(np.float32)
    chosen = np.stack([random.permutation(count)[:2] for _ in range(slots)])
    chosen[real:] = count
    variant = random.integers(0, variants, slots, np.int32)
    scale = random.random((variants, count, neurons)).astype(np.float32)
    shift = np.zeros_like(scale)
    shift[:, 2] = random.standard_normal((variants, neurons))  # only tokens that are routed to it notice
    edit = NeuronEdit(jnp.asarray(scale), jnp.asarray(shift))
    outputs, _, product, plan = experts(jnp.asarray(x), jnp.asarray(chosen), edit, jnp.asarray(variant), None, kernel)
    gate_proj, up_proj, down_proj = (np.asarray(w[...]) for w in (experts.gate, experts.up, experts.down))
    for slot in range(real):
        for choice, expert in enumerate(chosen[slot]):
            entry = int(plan.entry[slot, choice])
            unedited = np.asarray(jax.nn.silu(x[slot] @ gate_proj[expert])) * (x[slot] @ up_proj[expert])
            np.testing.assert_allclose(product[entry], unedited, atol=1e-5)
            edited = scale[variant[slot], expert] * unedited + (shift[variant[slot], 2] if expert == 2 else 0.0)
            np.testing.assert_allclose(outputs[entry], edited @ down_proj[expert], atol=1e-5)


def test_padding_that_is_shifted_counts_nowhere(moe: ModelDir, params: Any) -> None:
    """The statistics of a text are the same whatever padding is beside it."""
    assert moe.config.experts is not None
    edits = random_edits(moe.config, 2)
    edits = edits._replace(expert=None, mlp=NeuronEdit(shift=jnp.full((1, 2, 80), 10.0)))
    reader = Statistics(SHAPE.rows, moe.config.experts.count, "product", True, "scatter32")

    def statistics(slots: int) -> Any:
        batch = batch_of([0, 1, 0, 1, 1, 0], replace(SHAPE, slots=slots))
        return taps_of(moe.config, params, batch, edits, partial(reader.reduce, batch=batch))

    few, many = statistics(256), statistics(512)
    assert not few["mlp"]["positive_count"][:, len(LENGTHS) :].any()
    for one, other in zip(jax.tree.leaves(few), jax.tree.leaves(many), strict=True):
        if np.issubdtype(one.dtype, np.integer):
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one, other, atol=1e-5 * np.abs(np.asarray(one)).max())


@pytest.mark.parametrize("kernel", KERNELS)
def test_one_gradient_holds_activation_times_gradient_of_every_text(
    kernel: ExpertsKernel, moe: ModelDir, params: Any, reference: EditedReference
) -> None:
    """At scale 1, with a variant for each text."""
    edits = random_edits(moe.config, len(LENGTHS), scale="ones", shift=False)._replace(expert=None)
    batch = batch_of(range(len(LENGTHS)))
    kernels = replace(default_kernels(), experts=kernel)

    def total(edits: Edits) -> jax.Array:
        return jnp.sum(losses(moe.config, params, batch, edits, kernels))

    gradient = jax.jit(jax.grad(total))(edits)
    for text, ids in enumerate(texts()):
        for group, expected in reference.attribution(ids, edits, text).items():
            found = getattr(gradient, group).scale[:, text]
            assert np.abs(expected).max() > 1e-3
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("field", ["scale", "shift"])
def test_gradients_are_those_of_finite_differences(field: str, llama: ModelDir) -> None:
    params = llama.restore(ONE, "float32")
    edits = random_edits(llama.config, 2)
    batch = batch_of([0, 1, 0, 1, 1, 0])
    direction = np.random.default_rng(1).choice(np.float32([-1, 1]), (3, 2, 80))
    step = 1e-3

    @jax.jit
    def each(edits: Edits) -> jax.Array:
        return losses(llama.config, params, batch, edits)

    def beside(step: float) -> float:
        values = getattr(edits.mlp, field) + step * direction
        return float(np.float64(each(edits._replace(mlp=edits.mlp._replace(**{field: values})))).sum())

    difference = (beside(step) - beside(-step)) / (2 * step)
    gradient = np.asarray(getattr(jax.grad(lambda edits: each(edits).sum())(edits).mlp, field))
    assert abs(difference - (gradient * direction).sum()) < 1e-2 * np.linalg.norm(gradient)


def test_one_variant_is_not_gathered_and_no_edit_is_no_operation() -> None:
    product, variant = jnp.ones((4, 3)), jnp.zeros(4, jnp.int32)
    assert NeuronEdit().apply(product, variant) is product
    edit = NeuronEdit(jnp.ones((1, 3)), jnp.ones((1, 3)))
    program = str(jax.make_jaxpr(lambda edit: edit.apply(product, variant))(edit))
    assert "gather" not in program
    several = jax.tree.map(lambda values: jnp.tile(values, (2, 1)), edit)
    assert "gather" in str(jax.make_jaxpr(lambda edit: edit.apply(product, variant))(several))


def test_switch_off() -> None:
    random = np.random.default_rng(0)
    shapes = {"mlp": (2, 5), "routed": (3, 4, 6), "expert": (3, 4)}
    variants = [{name: random.random(shape) < 0.4 for name, shape in shapes.items()} for _ in range(2)]
    edits: Any = Edits.switch_off(*variants)
    assert edits.shared == NeuronEdit()
    assert (edits.mlp.shift, edits.routed.shift) == (None, None)
    for variant, off in enumerate(variants):
        np.testing.assert_array_equal(edits.mlp.scale[:, variant], np.where(off["mlp"], 0, 1))
        np.testing.assert_array_equal(edits.routed.scale[:, variant], np.where(off["routed"], 0, 1))
        np.testing.assert_array_equal(edits.expert[:, variant], ~off["expert"])
    assert (edits.mlp.scale.dtype, edits.expert.dtype) == (np.float32, bool)
