"""The likelihood of texts is the same whether the layers before the first edit run once or each time."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.causal import likelihood as likelihood_module
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.edits import Edits
from sparcom_jax.units.groups import model_groups

LENGTHS = np.asarray([40, 3, 90, 17, 120, 64, 31, 200, 9], np.int32)


def texts() -> TokenizedSet:
    random = np.random.default_rng(0)
    ids = [random.integers(3, 90, length).astype(np.int32) for length in LENGTHS]
    return TokenizedSet(ids, LENGTHS // 3, LENGTHS, {})


def off_from(model: ModelDir, first: int) -> Edits:
    """A fifth of all neurons off, and an expert, from a layer on."""
    random, off = np.random.default_rng(1), {}
    for group in model_groups(model.config):
        of_layer = np.reshape([layer >= first for layer in group.layers], (-1, *[1] * len(group.sizes)))
        chosen = np.arange(group.sizes[0]) == 1 if group.name == "expert" else random.random(group.shape) < 0.2
        off[group.name] = of_layer & np.broadcast_to(chosen, group.shape)
    return Edits.switch_off(off)


@pytest.mark.parametrize(
    ("kind", "first", "placement"),
    [("llama", 1, "pmap"), ("llama", 2, "mesh:2"), ("moe", 1, "mesh:2"), ("moe", 2, "pmap"), ("moe", 3, "pmap")],
)
def test_layers_before_the_first_edit_run_once(
    kind: str, first: int, placement: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    model: ModelDir = request.getfixturevalue(kind)
    placed = place_model(model, make_placement(placement, model.config), "float32")
    names = [f"text {text}" for text in range(len(LENGTHS))]
    edits, nothing = off_from(model, first), off_from(model, model.config.num_layers)
    whole = Likelihood(placed, texts(), names, 256)
    begun: list[int] = []
    original: Callable[..., Any] = likelihood_module.stream_step

    def counted(*args: Any, layer: int, **others: Any) -> Any:
        begun.append(layer)
        return original(*args, layer=layer, **others)

    monkeypatch.setattr(likelihood_module, "stream_step", counted)
    part = Likelihood(placed, texts(), names, 256, first_layer=first)
    steps = len(begun)
    assert {*begun} == {first}
    for edited in (edits, nothing):
        np.testing.assert_allclose(part.mean_nll(edited, ""), whole.mean_nll(edited, ""), rtol=1e-5)
    assert len(begun) == steps
    assert np.abs(whole.mean_nll(edits, "") - whole.mean_nll(nothing, "")).max() > 1e-3
