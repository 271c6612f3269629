"""Every family against transformers on tiny random checkpoints: module by module, tap by tap, and the logits."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.models.decoder import bind
from tests import checkpoints
from tests.reference import Reference, packed

ROPE_LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 64}  # fmt: skip
LLAMAS: dict[str, dict[str, Any]] = {
    "mha": {},
    "gqa": {"num_key_value_heads": 2, "head_dim": 20},
    "mqa_tied": {"num_key_value_heads": 1, "tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "rope_linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}},
    "rope_llama3": {"rope_parameters": ROPE_LLAMA3, "head_dim": 32},
    "gelu": {"hidden_act": "gelu", "rms_norm_eps": 1e-3},
    "relu": {"hidden_act": "relu"},
    "gelu_tanh": {"hidden_act": "gelu_pytorch_tanh"},
}
MOES: dict[str, dict[str, Any]] = {
    "plain": {"num_hidden_layers": 2},
    "normalized": {"norm_topk_prob": True, "num_hidden_layers": 2},
    "dense_first": {"mlp_only_layers": [0], "num_key_value_heads": 2},
    "sparse_step": {"decoder_sparse_step": 2, "num_hidden_layers": 4, "qkv_bias": False},
    "top_all": {"num_experts_per_tok": 8, "num_hidden_layers": 2, "tie_word_embeddings": True},
}
CASES = [("llama", name) for name in LLAMAS] + [("qwen2_moe", name) for name in MOES]
LENGTHS = (70, 3, 100, 1, 40)
SLOTS, ROWS, WINDOW = 256, 8, 256


@pytest.fixture(scope="module", params=CASES, ids=lambda case: "-".join(case))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[ModelDir, Reference]:
    family, name = request.param
    directory = tmp_path_factory.mktemp("parity") / "hf"
    if family == "llama":
        checkpoints.llama(directory, **LLAMAS[name])
    else:
        checkpoints.qwen2_moe(directory, **MOES[name])
    return convert(directory, directory.with_name("model")), Reference(directory)


def texts() -> list[np.ndarray]:
    random = np.random.default_rng(1)
    return [random.integers(0, checkpoints.VOCAB, length) for length in LENGTHS]


def ours(model: ModelDir, window: int = WINDOW, slots: int = SLOTS) -> tuple[np.ndarray, dict[str, Any]]:
    params = model.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32")

    @jax.jit
    def forward(params: Any, batch: Any) -> Any:
        decoder = bind(model.config, params)
        output = decoder(batch, ROWS, window=window, reduce=lambda taps: taps)
        return decoder.logits(output.hidden), output.taps

    return jax.tree.map(np.asarray, forward(params, packed(texts(), slots, ROWS)))


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def spans() -> list[tuple[np.ndarray, slice]]:
    starts = np.concatenate([[0], np.cumsum(LENGTHS)])
    return [(text, slice(a, a + len(text))) for text, a in zip(texts(), starts, strict=False)]


def test_logits_and_every_tap(pair: tuple[ModelDir, Reference]) -> None:
    model, reference = pair
    logits, taps = ours(model)
    dense, sparse = model.config.layers_of("dense"), model.config.layers_of("moe")
    for text, span in spans():
        hooks = {}
        for layer in dense:
            hooks |= {f"gate{layer}": f"model.layers.{layer}.mlp.act_fn",
                      f"product{layer}": f"model.layers.{layer}.mlp.down_proj:in"}  # fmt: skip
        for layer in sparse:
            hooks |= {f"gate{layer}": f"model.layers.{layer}.mlp.shared_expert.act_fn",
                      f"product{layer}": f"model.layers.{layer}.mlp.shared_expert.down_proj:in",
                      f"x{layer}": f"model.layers.{layer}.mlp:in",
                      f"router{layer}": f"model.layers.{layer}.mlp.gate"}  # fmt: skip
        read = reference.run(text, hooks)
        close(logits[span], read["logits"])
        for group, layers in (("mlp", dense), ("shared", sparse)):
            for index, layer in enumerate(layers):
                close(taps[group].gate[index][span], read[f"gate{layer}"])
                close(taps[group].product[index][span], read[f"product{layer}"])
        for index, layer in enumerate(sparse):
            compare_routed(jax.tree.map(lambda leaf, i=index: leaf[i], taps["routed"]), reference, read, layer, span)


def compare_routed(tap: Any, reference: Reference, read: dict[str, np.ndarray], layer: int, span: slice) -> None:
    chosen, weight, activation = reference.routed(read[f"x{layer}"], layer)
    close(tap.logits[span], read[f"router{layer}"])
    np.testing.assert_array_equal(tap.chosen[span], chosen)
    np.testing.assert_allclose(tap.weight[span], weight, atol=1e-5)
    for token in range(span.stop - span.start):
        entries = np.flatnonzero(tap.slot == span.start + token)
        assert sorted(tap.expert[entries]) == sorted(chosen[token])
        if token % 16 == 0:
            for entry in entries:
                gate, product = activation(token, int(tap.expert[entry]))
                np.testing.assert_allclose(tap.gate[entry], gate, atol=1e-4)
                np.testing.assert_allclose(tap.product[entry], product, atol=1e-4)


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


MODULES = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")


@pytest.mark.parametrize("family", ["llama", "qwen2_moe"])
def test_each_module_alone(family: str, hf_llama: Path, hf_moe: Path, llama: ModelDir, moe: ModelDir) -> None:
    """The same input into each module of the first layer, so that a departure says where it is."""
    from flax import nnx

    from sparcom_jax.models.edits import Edits
    from sparcom_jax.models.layers import rotary

    model, directory = (llama, hf_llama) if family == "llama" else (moe, hf_moe)
    reference = Reference(directory)
    text = texts()[0]
    layer = model.config.num_layers - 1
    hooks = {"embed": "model.embed_tokens", "norm": "model.norm", "norm_in": "model.norm:in"}
    for name in MODULES:
        hooks |= {name: f"model.layers.{layer}.{name}", f"{name}_in": f"model.layers.{layer}.{name}:in"}
    # Attention is called by keyword; what it reads is what the norm before it gives.
    hooks["self_attn_in"] = f"model.layers.{layer}.input_layernorm"
    read = reference.run(text, hooks)
    params = model.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32")
    decoder = bind(model.config, params)
    read = {name: jnp.asarray(value) for name, value in read.items()}
    close(decoder.embed(jnp.asarray(text)), read["embed"])
    close(decoder.norm(read["norm_in"]), read["norm"])
    graph, stacked = nnx.split(decoder.runs[-1])
    block = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[-1], stacked))
    close(block.attention_norm(read["input_layernorm_in"]), read["input_layernorm"])
    close(block.mlp_norm(read["post_attention_layernorm_in"]), read["post_attention_layernorm"])
    slots = jnp.zeros((128, model.config.width)).at[: len(text)].set(read["self_attn_in"])
    batch = jax.tree.map(jnp.asarray, packed([text], 128, ROWS))
    by = rotary(batch.position, model.config.rope, model.config.head_size)
    attended = block.attention(slots, by, batch.row, window=256, axis=None)
    close(attended[: len(text)], read["self_attn"])
    if family == "llama":
        y, _ = block.mlp(read["mlp_in"], None, axis=None)
    else:
        y, _ = block.moe(read["mlp_in"], jnp.ones(len(text), bool), Edits(), axis=None)
    close(y, read["mlp"])
