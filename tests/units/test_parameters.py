"""Units set to 0 in the parameters, of every family, against edits that switch them off in the forward pass."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

from sparcom_jax.batches.packing import fill
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.units.groups import EXPERT_GROUP
from sparcom_jax.units.parameters import ParameterSlice, Role
from tests import checkpoints
from tests.families import CASES, MLPS
from tests.parameters import Leaves, groups_of, leaves_of, slices_of, some_units, tree_of, with_value

LENGTHS = (70, 3, 55)
SHAPE = Shape(128, 128, 4)

Forward = Callable[[Leaves, Edits], tuple[np.ndarray, np.ndarray | None]]
"""Logits, and the logits of all routers."""


@pytest.fixture(scope="module", params=MLPS, ids=lambda case: "-".join(case))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    family, case = request.param
    directory = checkpoints.save_model(tmp_path_factory.mktemp("units") / "hf", family, **CASES[family][case])
    return convert(directory, directory.with_name("model"))


@pytest.fixture(scope="module")
def leaves(model: ModelDir) -> Leaves:
    return leaves_of(model)


@pytest.fixture(scope="module")
def forward(model: ModelDir) -> Forward:
    random = np.random.default_rng(1)
    texts = [random.integers(0, checkpoints.VOCAB, length, np.int32) for length in LENGTHS]
    batch = fill(SHAPE, texts, [np.ones(length, bool) for length in LENGTHS])

    @jax.jit
    def run(params: Any, batch: Any, edits: Edits) -> Any:
        decoder = bind(model.config, params)
        output = decoder(
            batch,
            SHAPE,
            edits=edits,
            reduce=lambda taps: {name: tap.logits for name, tap in taps.items() if name == "routed"},
        )
        return decoder.logits(output.hidden)[: sum(LENGTHS)], output.taps.get("routed")  # fmt: skip

    return lambda leaves, edits: jax.tree.map(np.asarray, run(tree_of(model.config, leaves), batch, edits))


def edits(config: DecoderConfig, **off: np.ndarray) -> Edits:
    """Edits of every group, so that all calls share one compilation, which switch off some units."""
    nothing = {name: np.zeros(group.shape, bool) for name, group in groups_of(config).items()}
    return Edits.switch_off(nothing | off)


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def of_roles(slices: list[ParameterSlice], *roles: Role) -> list[ParameterSlice]:
    return [one for one in slices if one.role in roles]


def test_neurons(model: ModelDir, leaves: Leaves, forward: Forward) -> None:
    """Any one of down, gate and up projection, each with its bias, switches a neuron off."""
    config = model.config
    plain, _ = forward(leaves, edits(config))
    groups = groups_of(config)
    masks = some_units(groups)
    for name in groups.keys() - {EXPERT_GROUP}:
        slices = slices_of(config, groups[name], masks[name])
        expected, _ = forward(leaves, edits(config, **{name: masks[name]}))
        assert np.abs(expected - plain).max() > 1e-3 * np.abs(plain).max()
        halves: list[tuple[Role, ...]] = [("down",), ("gate", "gate_bias")]
        clamped = name == "routed" and config.experts is not None and config.experts.clamp is not None
        if (config.gated or name != "mlp") and not clamped:
            halves.append(("up", "up_bias"))
        for roles in halves:
            assert of_roles(slices, roles[0])
            found, _ = forward(with_value(leaves, of_roles(slices, *roles)), edits(config))
            close(found, expected)
        if clamped:  # there the other factor is one more than the projection
            found, _ = forward(with_value(leaves, of_roles(slices, "up", "up_bias")), edits(config))
            assert np.abs(found - expected).max() > 1e-3 * np.abs(plain).max()


def test_experts(model: ModelDir, leaves: Leaves, forward: Forward) -> None:
    config = model.config
    groups = groups_of(config)
    if EXPERT_GROUP not in groups:
        pytest.skip("a model without experts")
    assert config.experts is not None
    mask = some_units(groups)[EXPERT_GROUP]
    slices = slices_of(config, groups[EXPERT_GROUP], mask)
    plain, routers = forward(leaves, edits(config))
    assert routers is not None
    # All but the router's: the expert is chosen as before, and writes nothing.
    neurons = np.broadcast_to(mask[:, :, None], groups["routed"].shape)
    expected, _ = forward(with_value(leaves, of_roles(slices, "down_bias")), edits(config, routed=neurons))
    silent = [one for one in slices if not one.role.startswith("router")]
    found, _ = forward(with_value(leaves, silent), edits(config))
    assert np.abs(expected - plain).max() > 1e-3 * np.abs(plain).max()
    close(found, expected)
    changed = with_value({path: np.ones_like(leaf) for path, leaf in leaves.items()}, silent)
    routed = [changed[path] for path in changed if "/moe/routed/" in path]
    assert [int((leaf == 0).sum()) for leaf in routed] == [leaf[0].size for leaf in routed]  # one expert, whole
    # The router's: its logits of these experts are 0, the others' as before. (Later layers read other states.)
    first = groups[EXPERT_GROUP].layers[0]
    only = mask & (np.arange(len(mask)) == 0)[:, None]
    router = of_roles(slices_of(config, groups[EXPERT_GROUP], only), "router", "router_bias")
    _, told = forward(with_value(leaves, router), edits(config))
    assert told is not None, first
    used = slice(0, sum(LENGTHS))
    assert not told[0][used][:, mask[0]].any()
    np.testing.assert_array_equal(told[0][used][:, ~mask[0]], routers[0][used][:, ~mask[0]])
    if config.experts.bias:
        expected, _ = forward(leaves, edits(config, expert=mask))
        found, _ = forward(with_value(leaves, of_roles(slices, "router_bias"), -np.inf), edits(config))
        close(found, expected)
