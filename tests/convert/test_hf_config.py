"""The rule for fields of config.json, on made-up cases and on those of released checkpoints."""

import csv
import json
from pathlib import Path
from typing import Any

import jax
import pytest

from sparcom_jax.convert.hf_config import describe, translate
from sparcom_jax.errors import InputError
from sparcom_jax.models.decoder import abstract_params

LLAMA = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
RELEASED = Path(__file__).resolve().parents[3] / "shared" / "data" / "configs"

# Published numbers of parameters, where they are known.
PARAMETERS = {
    "llama-3.2-1b": 1_235_814_400, "llama-3.2-3b-instruct": 3_212_749_824, "meta-llama-3-8b": 8_030_261_248,
    "mistral-7b-instruct-v0.3": 7_248_023_552, "gemma-2-2b": 2_614_341_888, "gemma-3-1b-it": 999_885_952,
    "qwen2-7b-instruct": 7_615_616_512, "qwen2.5-0.5b": 494_032_768, "qwen3-30b-a3b-instruct-2507": 30_532_122_624,
    "qwen1.5-moe-a2.7b-chat": 14_315_784_192, "olmo-2-1124-7b-instruct": 7_298_617_344, "phi-4": 14_659_507_200,
    "smollm2-135m": 134_515_008, "tinyllama-1.1b-chat-v1.0": 1_100_048_384, "wizardlm-2-8x22b": 140_620_634_112,
    "gpt-oss-20b": 20_914_757_184, "gpt-oss-20b-bf16": 20_914_757_184, "llama-2-7b-chat-hf": 6_738_415_616,
    "falcon3-7b-instruct": 7_455_550_464,
}  # fmt: skip
REFUSED = {
    "gte-qwen2-7b-instruct": "is_causal = False",
    "llama-3-8b-longrope2": "original_max_position_embeddings = 8192 stands outside of the longrope rope",
    "phi-3-medium-128k-instruct-su": "refused by transformers",
    "devstral-2-123b-instruct-fp8": "model_type 'ministral3' is not supported",
    "llama-2-13b-chat-gptq": "quant_method 'gptq' is not handled",
    "mythomax-l2-13b-gptq": "quant_method 'gptq' is not handled",
    "llama-3.1-405b-instruct-fp8": "quant_method 'fbgemm_fp8' is not handled",
    "llama-3.1-8b-instruct-bnb-8bit": "quant_method 'bitsandbytes' is not handled",
    "llama-4-scout-17b-16e-instruct": "model_type 'llama4' is not supported",
    "mistral-small-4-awq": "mistral3 holds a text model of model_type 'mistral4'",
    "qwen3-14b-mlx-4bit": "MLX's own quantisation",
}


def released() -> list[Any]:
    if not RELEASED.exists():
        reason = "../shared/data/configs is not there: config.json of released checkpoints"
        return [pytest.param({}, marks=pytest.mark.skip(reason=reason))]
    with (RELEASED / "SOURCES.tsv").open() as file:
        return [pytest.param(row, id=row["name"]) for row in csv.DictReader(file, delimiter="\t")]


@pytest.mark.parametrize("row", released())
def test_released_configs_translate_or_are_refused_by_name(row: dict[str, str]) -> None:
    raw = json.loads((RELEASED / f"{row['name']}.json").read_text())
    reason = REFUSED.get(row["name"])
    if reason is None and row["group"] == "3":
        reason = f"model_type '{row['model_type']}' is not supported"
    if reason is not None:
        with pytest.raises(InputError, match=reason):
            describe(raw)
        return
    config = describe(raw).decoder
    count = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    assert count == PARAMETERS.get(row["name"], count)


PHI = {"model_type": "phi3", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1, "pad_token_id": 0}
NOT_READ: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "phi-4-mini": (PHI, {"full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "mlp_bias": False}),
    "gpt-oss": ({"model_type": "gpt_oss"}, {"experts_per_token": 4, "initial_context_length": 4096}),
    "smollm2": (LLAMA, {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"a": 1}}),
    "unsloth": (LLAMA, {"unsloth_fixed": True, "unsloth_version": "2024.9"}),
    "attention": (LLAMA, {"_attn_implementation_autoset": True, "unk_token_id": 0, "_model_name_or_path": "x"}),
    "llama-1": (LLAMA, {"max_sequence_length": 2048, "sliding_window_size": 5}),
    "qwen3-coder": ({"model_type": "qwen3_moe"}, {"use_qk_norm": True, "shared_expert_intermediate_size": 0}),
    "generation": (LLAMA, {"max_length": 4096, "do_sample": True, "temperature": 0.3, "top_p": 0.9}),
}  # fmt: skip


@pytest.mark.parametrize("case", NOT_READ)
def test_what_transformers_does_not_read_is_listed_and_passes(case: str) -> None:
    base, fields = NOT_READ[case]
    described = describe(base | fields)
    assert described.not_read == tuple(sorted(fields))
    assert described.decoder == translate(base)


def test_pythia_keeps_its_quarter() -> None:
    base = {"model_type": "gpt_neox", "hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 1}
    config = translate(base | {"rotary_pct": 0.25, "partial_rotary_factor": 0.5})
    assert config.ropes[0].size == 8
    assert config == translate(base)


ACTING: dict[str, tuple[dict[str, Any], str]] = {
    "window": ({"model_type": "gemma2", "use_bidirectional_attention": True}, "use_bidirectional_attention = True"),
    "several": (
        LLAMA | {"is_causal": False, "quantization": {"bits": 4}},
        "fields is_causal = False .*; quantization =",
    ),
    "declared": (
        {"model_type": "deepseek_v2", "norm_topk_prob": True, "mlp_bias": True},
        "fields mlp_bias = True is not handled by the decoder; norm_topk_prob = True is not handled",
    ),
    "gpt-oss": (
        {"model_type": "gpt_oss", "experts_per_token": 4, "quantization_config": {"quant_method": "awq"}},
        "^field quantization_config: quant_method 'awq'",
    ),
    "epsilon": (LLAMA | {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan is not finite"),
    "factor": (
        LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": float("inf")}},
        r"rope_scaling\.factor = inf is not finite",
    ),
    "theta": (LLAMA | {"rope_theta": None}, "rope field 'rope_theta' = None must be a positive number"),
    "negative": (LLAMA | {"rope_theta": -1.0}, "rope field 'rope_theta' = -1.0 must be a positive number"),
    "words": (
        LLAMA | {"rope_theta": "ten thousand"},
        "rope field 'rope_theta' = 'ten thousand' must be a positive number",
    ),
    "alias": (
        {"model_type": "mixtral", "num_local_experts": 8, "num_experts": 4},
        "num_experts = 4 and num_local_experts = 8 are one field",
    ),
    "scale": (
        LLAMA | {"rope_scaling": {"rope_type": "linear", "factor": 0.0}},
        "rope field 'factor' = 0.0 must be a positive",
    ),
}


@pytest.mark.parametrize("case", ACTING)
def test_what_acts_and_is_not_honoured_is_refused_all_at_once(case: str) -> None:
    raw, message = ACTING[case]
    with pytest.raises(InputError, match=message) as error:
        translate(raw)
    assert "\n" not in str(error.value)


def test_neutral_values_pass() -> None:
    neutral = {"is_causal": True, "attention_dropout": 0.1, "auto_map": {"AutoModel": "x.Y"}, "pad_token_id": None,
               "original_max_position_embeddings": 8192, "id2label": {"0": "a"}, "bits": None}  # fmt: skip
    described = describe(LLAMA | neutral)
    assert described.decoder == translate(LLAMA)
    assert described.own_code
    assert described.not_read == ()


def test_every_field_that_a_family_declares_is_honoured_or_neutral_by_default() -> None:
    """A new field of transformers must be looked at before a family may pass it."""
    from transformers import CONFIG_MAPPING

    from sparcom_jax.convert.families import FAMILIES
    from sparcom_jax.convert.hf_config import IGNORED, ROPE_FIELDS

    looked_at = {"gemma3_text": {"attn_logit_softcapping"}, "gpt_neox": {"is_decoder"}}
    for name, family in FAMILIES.items():
        declared = set(CONFIG_MAPPING[name]().to_dict())
        known = family.handled | IGNORED | ROPE_FIELDS | family.neutral.keys() | looked_at.get(name, set())
        assert declared - known - {"is_encoder_decoder", "original_max_position_embeddings"} == set(), name
