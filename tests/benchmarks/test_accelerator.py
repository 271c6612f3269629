"""The parts of the benchmark of an accelerator, in sizes for CPU."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from benchmarks.accelerator import hooks, shapes
from benchmarks.accelerator.record import Record
from benchmarks.peers import Counts, HookedModel, padded_batches
from sparcom_jax.batches.packing import fill, make_plan
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.models.batch import Batch
from sparcom_jax.models.decoder import Params, abstract_params, bind
from sparcom_jax.units.groups import model_groups

LENGTHS = np.asarray([3, 41, 17, 5, 17, 30])
CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Matrices as small as these are slower on several threads, by far where other processes keep the cores busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "billions"), [("Llama-3.1-8B", 8.03), ("Qwen1.5-MoE-A2.7B", 14.32), ("gpt-oss-20b", 20.91)]
)
def test_shapes_are_those_released(name: str, billions: float) -> None:
    config = shapes.decoder_config(shapes.SHAPES[name])
    assert shapes.parameter_bytes(config, "bfloat16") / 2e9 == pytest.approx(billions, abs=0.005)
    assert shapes.parameter_bytes(config, "float32") == 2 * shapes.parameter_bytes(config, "bfloat16")


def test_depth_is_cut_in_every_field() -> None:
    cut = shapes.decoder_config(shapes.GPT_OSS_20B, layers=5)
    assert cut.layers == shapes.decoder_config(shapes.GPT_OSS_20B).layers[:5]


@pytest.mark.parametrize(("name", "placed"), [(name, "pmap") for name in shapes.SHAPES] + [("Llama-3.1-8B", "mesh:2")])
def test_random_weights(name: str, placed: str) -> None:
    fields = shapes.small(shapes.SHAPES[name])
    config = shapes.decoder_config(fields, layers=2)
    placement = make_placement(placed, config)
    shardings = placement.param_shardings(config)
    params = shapes.random_params(config, "bfloat16", shardings, seed=1)
    abstract = abstract_params(config)
    assert jax.tree.structure(params) == jax.tree.structure(abstract)
    jax.tree.map(lambda leaf, like: _assert_like(leaf, like.shape), params, abstract)
    assert all(jax.tree.leaves(jax.tree.map(lambda leaf, sharding: leaf.sharding == sharding, params, shardings)))

    logits = _logits(params, config, np.arange(40) % config.vocab_size)
    assert np.isfinite(logits).all()
    assert 0.2 < logits.std() < 5
    again = shapes.random_params(config, "bfloat16", shardings, seed=1)
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_weights_as_large_as_their_inputs_ask() -> None:
    config = shapes.decoder_config(shapes.small(shapes.QWEN1_5_MOE_A2_7B), layers=3)
    params = shapes.random_params(config, "float32", make_placement("pmap", config).param_shardings(config), 0)
    gate = np.asarray(params["segments"][0][0]["moe"]["routed"]["gate"])
    assert gate.std() == pytest.approx(config.width**-0.5, rel=0.01)
    assert abs(np.corrcoef(gate.reshape(len(gate), -1))[0, 1]) < 0.01  # layers are drawn apart
    assert (np.asarray(params["norm"]["scale"]) == 1).all()


@pytest.mark.parametrize("fields", [shapes.QWEN1_5_MOE_A2_7B, shapes.GPT_OSS_20B], ids=["qwen2_moe", "gpt_oss"])
def test_hooks_count_what_a_plain_loop_counts(fields: shapes.Fields) -> None:
    fields = shapes.with_layers(shapes.small(fields), 2) | {"sliding_window": 8}
    groups = model_groups(shapes.decoder_config(fields))
    model: Any = hooks.random_model(fields, "float32", CPU)
    with torch.no_grad():  # transformers makes biases of zeros
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    for layer in model.layers:
        layer.mlp.experts.limit = 0.5  # of gpt-oss; the released one is hardly reached
    draw = np.random.default_rng(0)
    ids = [draw.integers(fields["vocab_size"], size=length) for length in LENGTHS]
    expected = _counts_one_by_one(model, ids)  # before the loop is patched
    counts = HookedModel(model, groups, batch_tokens=64).count(ids)
    assert counts.keys() == expected.keys()
    for name, of_name in counts.items():
        assert of_name.dtype == np.uint16
        np.testing.assert_array_equal(of_name, expected[name], err_msg=name)


def test_padded_batches_hold_every_token() -> None:
    ids = [np.arange(1, length + 1) for length in LENGTHS]
    batches = padded_batches(ids, 64)
    assert [batch.ids.shape for batch in batches] == [(3, 17), (2, 30), (1, 41)]
    read = {row: batch.ids[i][batch.real[i]].tolist() for batch in batches for i, row in enumerate(batch.rows)}
    assert read == {row: text.tolist() for row, text in enumerate(ids)}


@pytest.mark.parametrize("fields", shapes.SHAPES.values(), ids=shapes.SHAPES)
def test_rate_of_hooks(fields: shapes.Fields, tmp_path: Path) -> None:
    record = Record("hooks", tmp_path / "found", time.time() + 60)
    rate = hooks.hooks_rate(record, shapes.small(fields), LENGTHS, "bfloat16", batch_tokens=64, rounds=3)
    found = _found(tmp_path / "found")
    assert found["torch hooks"]["value"] == rate
    assert found["torch hooks"]["low"] <= rate <= found["torch hooks"]["high"]
    assert found["torch hooks, slots filled"]["value"] == pytest.approx(LENGTHS.sum() / 152)


@pytest.mark.parametrize("fits", [64, 0])
def test_hooks_out_of_memory(fits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def rates(*args: Any) -> tuple[list[float], float]:
        if args[3] > fits:
            raise torch.cuda.OutOfMemoryError(f"no room for {args[3]}")
        return [2.0, 3.0, 5.0], 0.5

    monkeypatch.setattr(hooks, "torch_rates", rates)
    record = Record("hooks", tmp_path / "found", time.time() + 60)
    rate = hooks.hooks_rate(record, shapes.small(shapes.LLAMA_3_1_8B), LENGTHS, "bfloat16", 256, rounds=3)
    found = _found(tmp_path / "found")
    if fits:
        assert rate == 3
        assert found["torch hooks, token slots of a batch"]["value"].startswith("64:")
    else:
        assert rate is None
        assert found["torch hooks"]["kind"] == "failure"
        assert "no room for 32" in found["torch hooks"]["value"]


def _found(file: Path) -> dict[str, dict[str, Any]]:
    return {line["name"]: line for line in map(json.loads, file.read_text().splitlines())}


def _assert_like(leaf: jax.Array, shape: tuple[int, ...]) -> None:
    assert (leaf.shape, leaf.dtype) == (shape, jnp.bfloat16)


def _logits(params: Params, config: Any, ids: np.ndarray) -> np.ndarray:
    ids = ids.astype(np.int32)
    shape = make_plan(np.asarray([len(ids)]), 1, 64).blocks[0][0].shape

    @jax.jit
    def read(params: Params, batch: Batch) -> jax.Array:
        decoder = bind(config, params)
        return decoder.logits(decoder(batch, shape).hidden)

    whole = jax.device_put(params, jax.devices()[0])
    return np.asarray(read(whole, fill(shape, [ids], [np.ones(len(ids), bool)])), np.float32)[: len(ids)]


def _counts_one_by_one(model: Any, ids: list[np.ndarray]) -> Counts:
    """Token by token and choice by choice, from what the experts and the shared expert read."""
    experts = [layer.mlp.experts for layer in model.layers]
    neurons = experts[0].down_proj.shape[-2 if hasattr(experts[0], "alpha") else -1]
    shape = len(ids), len(experts)
    counts = {"routed": np.zeros((*shape, experts[0].num_experts, neurons), int),
              "expert": np.zeros((*shape, experts[0].num_experts), int)}  # fmt: skip
    if hasattr(model.layers[0].mlp, "shared_expert"):
        counts["shared"] = np.zeros((*shape, model.layers[0].mlp.shared_expert.gate_proj.out_features), int)
    read: list[Any] = [None] * len(experts)

    def keep(layer: int) -> Any:
        return lambda module, inputs: read.__setitem__(layer, inputs)

    handles = [one.register_forward_pre_hook(keep(layer)) for layer, one in enumerate(experts)]
    for text, of_text in enumerate(ids):
        with torch.inference_mode():
            model(input_ids=torch.from_numpy(of_text)[None], use_cache=False)
            for layer, (hidden, chosen, _) in enumerate(read):
                if "shared" in counts:
                    gate = model.layers[layer].mlp.shared_expert.gate_proj(hidden)
                    counts["shared"][text, layer] = (gate > 0).sum(dim=0)
                for x, mine in zip(hidden, chosen.tolist(), strict=True):
                    for expert in mine:
                        weight = experts[layer].gate_up_proj[expert]
                        if "shared" in counts:
                            gate = weight[:neurons] @ x
                        else:
                            gate = x @ weight[:, ::2] + experts[layer].gate_up_proj_bias[expert, ::2]
                        counts["routed"][text, layer, expert] += (gate > 0).numpy()
                        counts["expert"][text, layer, expert] += 1
    for handle in handles:
        handle.remove()
    return counts
