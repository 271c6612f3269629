"""Activations of one prompt against what a capture counts of it, and against forward hooks."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.capture.test_faults import LLAMA, spoilt

EXECUTION = sj.ExecutionSettings(batch_tokens=256)
TEXT = " ".join(checkpoints.TEXT[:2])
RESPONSE = "It is positive, and the capital."


@pytest.fixture
def captured(tmp_path: Path) -> Any:
    """Captures one text alone, as others that have nothing to do with it would."""

    def capture(model: ModelDir, settings: sj.CaptureSettings, text: str = TEXT) -> sj.Run:
        row = {"id": "i", "category": "A", "instruction": text, "response": RESPONSE}
        (tmp_path / "rows.jsonl").write_text(json.dumps(row))
        return sj.capture(model, tmp_path / "rows.jsonl", tmp_path / "run", settings, execution=EXECUTION)

    return capture


OWN_WORDS = sj.CaptureSettings(template="plain", scope="instruction", convention="product")
LAST = sj.CaptureSettings(scope="response", count_window=5)
CUT = sj.CaptureSettings(max_tokens=9, truncate=True)


@pytest.mark.parametrize(
    ("name", "settings"),
    [("llama", sj.CaptureSettings()), ("llama", OWN_WORDS), ("llama", LAST), ("llama", CUT), ("moe", OWN_WORDS),
     ("moe", LAST)],
)  # fmt: skip
def test_counts_over_tokens_are_those_of_a_capture(
    name: str, settings: sj.CaptureSettings, captured: Any, request: pytest.FixtureRequest
) -> None:
    model: ModelDir = request.getfixturevalue(name)
    run = captured(model, settings)
    response = RESPONSE if settings.scope == "response" else None
    found = sj.activations(model, TEXT, settings, EXECUTION, response=response)
    assert {*found.children} == {*run.groups} - {"expert"}
    assert int(found.counted.sum()) == run.token_count[0]
    for group, node in found.children.items():
        assert node.layer.values.tolist() == list(run.groups[group].layers)
        positive = ((node.activation > 0) & node.counted).values
        if group != "routed":
            np.testing.assert_array_equal(positive.sum(axis=0), run.read(f"{group}/positive_count")[0])
            continue
        counts = np.zeros(run.groups["routed"].shape, int)
        selected, weight = np.zeros(counts.shape[:2], int), np.zeros(counts.shape[:2])
        token, layer, _ = np.indices(node.expert.shape)
        chosen, counted = node.expert.values, node.counted.values[token]
        np.add.at(counts, (layer, chosen), positive)
        np.add.at(selected, (layer, chosen), counted)
        np.add.at(weight, (layer, chosen), node.weight.values * counted)
        np.testing.assert_array_equal(counts, run.read("routed/positive_count")[0])
        np.testing.assert_array_equal(selected, run.read("routed/selected_count")[0])
        np.testing.assert_allclose(weight, run.read("routed/gate_sum")[0], rtol=1e-5)


@pytest.mark.parametrize("convention", ["gate", "product"])
@pytest.mark.parametrize("name", ["llama", "moe"])
def test_activations_are_those_of_forward_hooks(name: str, convention: str, request: pytest.FixtureRequest) -> None:
    model: ModelDir = request.getfixturevalue(name)
    reference = Reference(request.getfixturevalue(f"hf_{name}"))
    found = sj.activations(model, TEXT, sj.CaptureSettings(convention=convention))
    tokenizer = model.tokenizer()
    ids = np.asarray(tokenizer(TEXT)["input_ids"])
    assert found.token_id.values.tolist() == ids.tolist()
    assert "".join(found.token.values[1:]) == TEXT
    assert found.token.values[0] == "<s>"
    assert (found.attrs["text"], json.loads(found.attrs["settings"])["convention"]) == (TEXT, convention)
    kind = ("gate", "product").index(convention)

    def close(ours: Any, theirs: np.ndarray) -> None:
        np.testing.assert_allclose(ours.values, theirs, rtol=1e-3, atol=1e-5 * np.abs(theirs).max())

    for group, node in found.children.items():
        for layer in node.layer.values.tolist():
            of_layer, mlp = node.sel(layer=layer), f"{reference.layer(layer)}.mlp"
            if group == "routed":
                routed = reference.routed(reference.run(ids, {"x": f"{mlp}:in"})["x"], mlp)
                np.testing.assert_array_equal(of_layer.expert, routed.chosen)
                close(of_layer.weight, routed.weight)
                close(of_layer.activation, getattr(routed, convention))
            else:
                path = mlp if group == "mlp" else reference.shared(mlp)
                assert path is not None
                close(of_layer.activation, reference.run(ids, {"a": reference.neurons(path)[kind]})["a"])


def test_some_layers_and_other_placements(moe: ModelDir) -> None:
    whole = sj.activations(str(moe.path), TEXT)
    assert {name: node.layer.values.tolist() for name, node in whole.children.items()} == {
        "mlp": [0], "shared": [1, 2, 3], "routed": [1, 2, 3],
    }  # fmt: skip
    few = sj.activations(moe.path, TEXT, layers=[3, 1])
    assert {name: node.layer.values.tolist() for name, node in few.children.items()} == {
        "shared": [1, 3], "routed": [1, 3],
    }  # fmt: skip
    assert few["routed/activation"].dims == ("token", "layer", "choice", "neuron")
    for path in ("routed/activation", "routed/expert", "routed/weight", "shared/activation"):
        np.testing.assert_array_equal(few[path], whole[path].sel(layer=[1, 3]))
    shared = sj.activations(moe, TEXT, execution=sj.ExecutionSettings(placement="mesh:2"))
    for path in ("mlp/activation", "shared/activation", "routed/activation", "routed/expert", "routed/weight"):
        np.testing.assert_allclose(shared[path], whole[path], rtol=1e-4, atol=1e-5)


def test_a_template_around_the_words(llama: ModelDir) -> None:
    found = sj.activations(llama, "the fox", sj.CaptureSettings(template="plain", scope="instruction"))
    counted = found.token.values[found.counted.values]
    assert "".join(found.token.values) == "<s>Instruction:\nthe fox\n\nResponse:\n"
    assert "".join(counted).strip() == "the fox"


@pytest.mark.parametrize("placement", ["pmap", "mesh:2"])
def test_what_is_not_finite_is_refused(placement: str, hf_llama: Path, tmp_path: Path) -> None:
    spoil, _ = LLAMA["a gate of the last layer"]
    execution = sj.ExecutionSettings(dtype="float16", placement=placement)
    with pytest.raises(sj.InputError, match=r"^not finite in float16: instruction the prompt \(layer 2\)"):
        sj.activations(spoilt(tmp_path, hf_llama, spoil), TEXT, execution=execution)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": " \n"}, "text: is empty"),
        ({"text": "\ud800"}, "the prompt: .*surrogate"),
        ({"text": "word " * 2000}, "longer than 1024 tokens, the model's limit: the prompt"),
        ({"layers": [0, 7, 9]}, "layers: 7, 9: the model has the layers 0 to 2"),
        ({"layers": [-1]}, "layers: -1: the model has the layers 0 to 2"),
        ({"layers": [1, 1]}, r"layers \[1, 1\] must be unique, and one at least"),
        ({"layers": []}, r"layers \[\] must be unique, and one at least"),
        ({"settings": sj.CaptureSettings(scope="generated", new_tokens=3)}, "scope 'generated' continues a prompt"),
        ({"settings": sj.CaptureSettings(scope="response")}, "field 'response' is missing or empty in the prompt"),
        ({"response": "x"}, "response has no effect with scope prompt"),
        ({"settings": sj.CaptureSettings(template="chat")}, "the tokenizer has no chat template"),
        ({"settings": sj.CaptureSettings(convention="up")}, "capture.convention 'up' is not known"),
        ({"model": "nowhere"}, "nowhere: not a converted model"),
    ],
)
def test_bad_input_is_named(fields: dict[str, Any], message: str, llama: ModelDir) -> None:
    with pytest.raises(sj.InputError, match=message):
        sj.activations(**({"model": llama, "text": TEXT} | fields))
