"""Families with fields drawn at random: each module against transformers on the same input, and the logits."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sparcom_jax.batches.packing import fill, one_text
from sparcom_jax.convert.model_dir import convert
from sparcom_jax.models.decoder import bind
from sparcom_jax.verify.modules import module_errors, relative_error
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.families import CASES, ROPE_DYNAMIC, ROPE_LINEAR, ROPE_LLAMA3, ROPE_YARN

ACTIVATIONS = st.sampled_from(["silu", "gelu", "gelu_pytorch_tanh", "relu"])
ROPES = st.sampled_from(
    [{"rope_type": "default", "rope_theta": 500.0}, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_YARN, ROPE_LLAMA3]
)
KV_HEADS = st.sampled_from([1, 2, 4])
BOOLEANS = st.booleans()
WINDOWS = st.sampled_from([None, 5, 33])
COMMON = {"num_key_value_heads": KV_HEADS, "tie_word_embeddings": BOOLEANS, "hidden_act": ACTIVATIONS,
          "rope_parameters": ROPES, "rms_norm_eps": st.sampled_from([1e-6, 1e-2])}  # fmt: skip
PLAIN = {name: COMMON[name] for name in ("num_key_value_heads", "tie_word_embeddings", "rms_norm_eps")}
HEAD = {"head_dim": st.sampled_from([8, 12, 20])}
BIAS = {"attention_bias": BOOLEANS}
ROUTED = {"num_experts_per_tok": st.integers(1, 8), "norm_topk_prob": BOOLEANS}
GEMMA = {"query_pre_attn_scalar": st.sampled_from([8, 50]), "final_logit_softcapping": st.sampled_from([None, 5.0]),
         "sliding_window": st.sampled_from([5, 33])}  # fmt: skip
DRAWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "llama": COMMON | HEAD | BIAS | {"mlp_bias": BOOLEANS},
    "mistral": COMMON | HEAD | {"sliding_window": WINDOWS},
    "qwen2": COMMON | {
        "use_sliding_window": BOOLEANS, "sliding_window": st.just(9), "max_window_layers": st.integers(0, 3)},
    "qwen3": COMMON | HEAD | BIAS,
    "gemma2": COMMON | HEAD | BIAS | GEMMA | {"attn_logit_softcapping": st.sampled_from([None, 3.0])},
    "phi3": PLAIN | {
        "sliding_window": WINDOWS},
    "olmo2": COMMON | BIAS,
    "gpt_neox": {"tie_word_embeddings": BOOLEANS, "hidden_act": ACTIVATIONS, "use_parallel_residual": BOOLEANS} | BIAS,
    "mixtral": COMMON | HEAD | {"sliding_window": WINDOWS, "num_experts_per_tok": st.integers(1, 8)},
    "qwen2_moe": COMMON | ROUTED | {"qkv_bias": BOOLEANS, "decoder_sparse_step": st.integers(1, 3)},
    "qwen3_moe": COMMON | HEAD | BIAS | ROUTED | {"decoder_sparse_step": st.integers(1, 3)},
    "olmoe": COMMON | BIAS | ROUTED | {"clip_qkv": st.sampled_from([None, 1.0])},
    "deepseek_v2": BIAS | {
        "tie_word_embeddings": BOOLEANS, "first_k_dense_replace": st.integers(0, 3),
        "n_shared_experts": st.integers(1, 2),
        "q_lora_rank": st.sampled_from([None, 7]), "routed_scaling_factor": st.sampled_from([1.0, 3.0]),
        "num_experts_per_tok": st.integers(1, 4), "topk_method": st.sampled_from(["greedy", "group_limited_greedy"]),
        "n_group": st.sampled_from([2, 4]), "topk_group": st.just(2), "v_head_dim": st.sampled_from([6, 14]),
    },
    "gpt_oss": PLAIN | BIAS | {
        "swiglu_limit": st.sampled_from([0.3, 7.0]), "num_experts_per_tok": st.integers(1, 8),
        "sliding_window": st.sampled_from([5, 33])},
}  # fmt: skip


def test_all_families_are_drawn() -> None:
    assert DRAWN.keys() == CASES.keys() - {"gemma3_text"}  # its ropes go with its layers; the fixed shapes have them


@pytest.mark.parametrize("family", DRAWN)
def test_drawn_fields(family: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    ids = np.random.default_rng(3).integers(0, checkpoints.VOCAB, 77, np.int32)

    # Other fields in every run; a failure says how to draw its own again.
    @settings(max_examples=2, print_blob=True, database=None, deadline=None, phases=[Phase.generate],
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.fixed_dictionaries(DRAWN[family]))
    def agree(fields: dict[str, Any]) -> None:
        directory: Path = tmp_path_factory.mktemp("drawn") / "hf"
        model = convert(checkpoints.save_model(directory, family, **fields), directory.with_name("model"))
        reference = Reference(directory, torch.float64)
        params = model.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32")
        decoder = bind(model.config, params)
        assert [one for one in module_errors(decoder, reference, ids) if one.error > 1e-5] == []
        shape = one_text(len(ids))
        batch = fill(shape, [ids], [np.ones(len(ids), bool)])
        logits = jax.jit(lambda batch: decoder.logits(decoder(batch, shape).hidden))(batch)
        assert relative_error(logits[: len(ids)], reference.run(ids, {})["logits"]) < 1e-4

    agree()
