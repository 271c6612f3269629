"""The likelihood of texts, against plain NumPy, and the same whether lower layers run once or each time."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jaxtyping import Array

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.causal import likelihood as likelihood_module
from sparcom_jax.causal.likelihood import Likelihood
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models import loss as loss_module
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.loss import next_token_nll
from sparcom_jax.units.groups import model_groups
from tests import checkpoints

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


@pytest.mark.parametrize("words", [96, 1000])
@pytest.mark.parametrize(("family", "tied"), [("llama", False), ("llama", True), ("gemma2", True)])
def test_next_tokens_against_numpy(
    words: int, family: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a vocabulary that the words at a time divide or not; no slot, some or all are scored."""
    monkeypatch.setattr(loss_module, "WORDS", words)
    source = checkpoints.save_model(tmp_path / "hf", family, tie_word_embeddings=tied)
    model = convert(source, tmp_path / "model")
    decoder = bind(model.config, place_model(model, make_placement("pmap", model.config), "float32").params)
    assert (model.config.logit_cap > 0) == (family == "gemma2")
    random = np.random.default_rng(0)
    hidden = random.normal(size=(256, model.config.width)).astype(np.float32)
    target = random.integers(0, checkpoints.VOCAB, 256).astype(np.int32)
    logits = np.asarray(decoder.logits(jnp.asarray(hidden)), np.float64)
    expected = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(256), target]
    score = jax.jit(lambda *of: next_token_nll(decoder, *of))
    for share in (0.0, 0.01, 0.3, 0.52, 1.0):
        scored = random.random(256) < share
        found = score(hidden, target, scored)
        np.testing.assert_allclose(found, np.where(scored, expected, 0), rtol=1e-5, atol=1e-6)

    def plain(x: Array) -> Array:
        log_probability = jax.nn.log_softmax(decoder.logits(x), axis=-1)
        return -jnp.take_along_axis(log_probability, target[:, None], axis=1)[scored].sum()

    scored = random.random(256) < 0.3
    gradient = jax.jit(jax.grad(lambda x: score(x, target, scored).sum()))(hidden)
    np.testing.assert_allclose(gradient, jax.jit(jax.grad(plain))(hidden), atol=1e-5)
