"""Every family against transformers on tiny random checkpoints: module by module, tap by tap, and the logits.

transformers runs in float64: its own error in float32 is as large as ours, and what is compared is ours.
"""

from typing import Any

import jax
import numpy as np
import pytest
import torch

from sparcom_jax.batches.packing import fill
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.decoder import bind
from sparcom_jax.verify.modules import module_errors
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.families import CASES

LENGTHS = (70, 3, 100, 1, 40)
SLOTS, ROWS, WINDOW = 256, 8, 256


ALL = [(family, case) for family, cases in CASES.items() for case in cases]
ONE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


@pytest.fixture(scope="module", params=ALL, ids=lambda case: "-".join(case))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelDir, Reference]:
    family, case = request.param
    directory = tmp_path_factory.mktemp("parity") / "hf"
    checkpoints.save_model(directory, family, **CASES[family][case])
    return convert(directory, directory.with_name("model")), Reference(directory, torch.float64)


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, checkpoints.VOCAB, length, np.int32) for length in LENGTHS]


def ours(model: ModelDir, window: int = WINDOW, slots: int = SLOTS) -> tuple[np.ndarray, dict[str, Any]]:
    params = model.restore(ONE, "float32")

    shape = Shape(slots, window, ROWS)

    @jax.jit
    def forward(params: Any, batch: Any) -> Any:
        decoder = bind(model.config, params)
        output = decoder(batch, shape, reduce=lambda taps: taps)
        return decoder.logits(output.hidden), output.taps

    return jax.tree.map(np.asarray, forward(params, fill(shape, texts(), [np.ones(n, bool) for n in LENGTHS])))


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def spans() -> list[tuple[np.ndarray, slice]]:
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    return [(text, slice(a, a + len(text))) for text, a in zip(texts(), starts, strict=False)]


def test_logits_and_every_tap(pair: tuple[ModelDir, Reference]) -> None:
    model, reference = pair
    logits, taps = ours(model)
    for text, span in spans():
        hooks: dict[str, str] = {}
        for layer in range(model.config.num_layers):
            mlp = f"{reference.layer(layer)}.mlp"
            if not model.config.layers[layer].routed:
                hooks[f"gate{layer}"], hooks[f"product{layer}"] = reference.neurons(mlp)
                continue
            hooks[f"x{layer}"] = f"{mlp}:in"
            if shared := reference.shared(mlp):
                hooks[f"gate{layer}"], hooks[f"product{layer}"] = reference.neurons(shared)
        read = reference.run(text, hooks)
        close(logits[span], read["logits"])
        for group, layers in (("mlp", model.config.dense_layers), ("shared", model.config.moe_layers)):
            for index, layer in enumerate(layers if group in taps else ()):
                close(taps[group].gate[index][span], read[f"gate{layer}"])
                close(taps[group].product[index][span], read[f"product{layer}"])
        for index, layer in enumerate(model.config.moe_layers):
            tap = jax.tree.map(lambda leaf, i=index: leaf[i], taps["routed"])
            compare_routed(tap, reference, read[f"x{layer}"], f"{reference.layer(layer)}.mlp", span)


def compare_routed(tap: Any, reference: Reference, x: np.ndarray, mlp: str, span: slice) -> None:
    theirs = reference.routed(x, mlp)
    close(tap.logits[span], theirs.logits)
    np.testing.assert_array_equal(tap.chosen[span], theirs.chosen)
    np.testing.assert_allclose(tap.weight[span], theirs.weight, atol=1e-5 * np.abs(theirs.weight).max())
    close(tap.norm[span], np.linalg.norm(theirs.output, axis=-1))
    for token in range(span.stop - span.start):
        entries = np.flatnonzero(tap.slot == span.start + token)
        assert sorted(tap.expert[entries]) == sorted(theirs.chosen[token])
        for entry in entries:
            choice = int(np.flatnonzero(theirs.chosen[token] == tap.expert[entry])[0])
            np.testing.assert_allclose(tap.gate[entry], theirs.gate[token, choice], atol=1e-4)
            np.testing.assert_allclose(tap.product[entry], theirs.product[token, choice], atol=1e-4)


def test_padding_is_routed_nowhere(moe: ModelDir) -> None:
    _, taps = ours(moe)
    used = sum(LENGTHS)
    routed = taps["routed"]
    assert (routed.chosen[:, used:] == moe.config.experts.count).all()
    assert not routed.weight[:, used:].any()
    assert set(np.unique(routed.slot)) == {*range(used), SLOTS}


@pytest.mark.parametrize(("window", "slots"), [(512, 256), (256, 512), (1024, 384)])
def test_batch_shape_does_not_matter(llama: ModelDir, window: int, slots: int) -> None:
    logits, _ = ours(llama)
    other, _ = ours(llama, window, slots)
    used = sum(LENGTHS)
    np.testing.assert_allclose(other[:used], logits[:used], rtol=0, atol=1e-5 * np.abs(logits).max())


def test_each_module_alone(pair: tuple[ModelDir, Reference]) -> None:
    """The same input into each module, so that a departure says where it is."""
    model, reference = pair
    decoder = bind(model.config, model.restore(ONE, "float32"))
    errors = list(module_errors(decoder, reference, texts()[0]))
    assert len(errors) >= 4 * model.config.num_layers + 2
    assert [error for error in errors if error.error > 1e-5] == []
