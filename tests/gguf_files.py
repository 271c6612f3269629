"""GGUF files of tiny Hugging Face checkpoints, laid out as llama.cpp's converter lays them out."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from safetensors.numpy import load_file

ARCHITECTURES = {
    "llama": "llama", "mistral": "llama", "mixtral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gemma2": "gemma2",
    "gemma3_text": "gemma3", "phi3": "phi3", "olmo2": "olmo2", "olmoe": "olmoe", "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe", "deepseek_v2": "deepseek2", "gpt_oss": "gpt-oss",
}  # fmt: skip


def write_gguf(
    directory: Path,
    path: Path,
    kind: GGMLQuantizationType = GGMLQuantizationType.F32,
    keys: dict[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    tensors: dict[str, np.ndarray] | None = None,
    split_latent: bool = False,
) -> Path:
    """Writes a checkpoint directory as GGUF: matrices in `kind`, vectors in float32."""
    config = json.loads((directory / "config.json").read_text())
    arch = ARCHITECTURES[config["model_type"]]
    writer = GGUFWriter(path, arch)
    for key, value in (metadata(config, arch) | (keys or {})).items():
        if key not in drop and value is not None:
            _add(writer, key, value)
    _add_tokenizer(writer, directory)
    for name, tensor in (gguf_tensors(config, directory, split_latent) | (tensors or {})).items():
        matrix = tensor.ndim > 1 and name not in ("output_norm.weight",)
        fits = tensor.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        chosen = kind if matrix and fits else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quantize(np.ascontiguousarray(tensor, np.float32), chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    kinds = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    writer.add_array(key, value) if isinstance(value, list) else kinds[type(value)](key, value)


def metadata(config: dict[str, Any], arch: str) -> dict[str, Any]:
    heads, width = config["num_attention_heads"], config["hidden_size"]
    head_size = config.get("head_dim") or width // heads
    rope = config["rope_parameters"]
    rope = rope.get("full_attention", rope)
    keys: dict[str, Any] = {
        "context_length": config["max_position_embeddings"],
        "embedding_length": width,
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": heads,
        "attention.head_count_kv": config.get("num_key_value_heads", heads),
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.freq_base": float(rope["rope_theta"]),
        "vocab_size": config["vocab_size"],
        "rope.dimension_count": head_size,
        "attention.sliding_window": config.get("sliding_window")
        if arch in ("gemma2", "gemma3", "phi3", "gpt-oss")
        else None,
        "expert_count": config.get("num_experts") or config.get("num_local_experts") or config.get("n_routed_experts"),
        "expert_used_count": config.get("num_experts_per_tok"),
        "expert_feed_forward_length": config.get("moe_intermediate_size"),
        "attn_logit_softcapping": config.get("attn_logit_softcapping"),
        "final_logit_softcapping": config.get("final_logit_softcapping"),
    }
    if arch in ("qwen3", "qwen3moe", "gemma2", "gemma3", "gpt-oss", "llama"):
        keys |= {"attention.key_length": head_size, "attention.value_length": head_size}
    if arch == "gpt-oss":
        keys["expert_feed_forward_length"] = config["intermediate_size"]
    if arch == "qwen2moe":
        keys["expert_shared_feed_forward_length"] = config["shared_expert_intermediate_size"]
    if rope["rope_type"] in ("linear", "yarn"):
        keys |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"]),
                 "rope.scaling.original_context_length": rope.get("original_max_position_embeddings")}  # fmt: skip
    if arch == "phi3":
        keys["rope.scaling.original_context_length"] = config["original_max_position_embeddings"]
        keys["rope.dimension_count"] = int(head_size * rope.get("partial_rotary_factor", 1.0))
    if arch == "deepseek2":
        keys |= {
            "leading_dense_block_count": config["first_k_dense_replace"],
            "attention.q_lora_rank": config["q_lora_rank"],
            "attention.kv_lora_rank": config["kv_lora_rank"],
            "attention.key_length": config["qk_nope_head_dim"] + config["qk_rope_head_dim"],
            "attention.value_length": config["v_head_dim"],
            "expert_shared_count": config["n_shared_experts"],
            "expert_weights_scale": float(config["routed_scaling_factor"]),
            "expert_gating_func": 1,
            "rope.dimension_count": config["qk_rope_head_dim"],
            "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"] if "mscale_all_dim" in rope else None,
        }
        if config["topk_method"] == "group_limited_greedy":
            keys |= {"expert_group_count": config["n_group"], "expert_group_used_count": config["topk_group"]}
    own = {f"{arch}.{key}": value for key, value in keys.items()}
    return {**own, "general.name": "tiny", "general.quantization_version": 2}


def _add_tokenizer(writer: GGUFWriter, directory: Path) -> None:
    tokenizer = json.loads((directory / "tokenizer.json").read_text())
    vocab = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get)
    special = {token["content"] for token in tokenizer["added_tokens"] if token["special"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocab)
    writer.add_token_types([3 if token in special else 1 for token in vocab])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}")


def _permuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's order of rows: the two members of a pair side by side."""
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


def gguf_tensors(config: dict[str, Any], directory: Path, split_latent: bool) -> dict[str, np.ndarray]:
    arch = ARCHITECTURES[config["model_type"]]
    layers = config["num_hidden_layers"]
    kinds = {value: key for key, value in gguf.MODEL_ARCH_NAMES.items()}
    name_map = gguf.get_tensor_name_map(kinds[arch], layers)
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    result: dict[str, np.ndarray] = {}
    experts: dict[str, dict[int, np.ndarray]] = {}
    for name, tensor in load_file(directory / "model.safetensors").items():
        stem, _, suffix = name.rpartition(".")
        if ".experts." in name and arch != "gpt-oss":
            before, _, after = name.partition(".experts.")
            number, which, _ = after.split(".")
            experts.setdefault(f"{before}.experts.{which}", {})[int(number)] = tensor
            continue
        if arch == "gpt-oss" and ".experts." in name:
            block = f"blk.{name.split('.')[2]}."
            kind = "bias" if name.endswith("_bias") else "weight"
            turned = tensor if kind == "bias" else tensor.swapaxes(1, 2)
            if "gate_up" in name:
                result[f"{block}ffn_gate_exps.{kind}"] = turned[:, 0::2]
                result[f"{block}ffn_up_exps.{kind}"] = turned[:, 1::2]
            else:
                result[f"{block}ffn_down_exps.{kind}"] = turned
            continue
        if name.endswith("self_attn.sinks"):
            result[f"blk.{name.split('.')[2]}.attn_sinks.weight"] = tensor
            continue
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            tensor = _permuted(tensor, heads if stem.endswith("q_proj") else kv_heads)
        if arch in ("gemma2", "gemma3") and name.endswith("norm.weight"):
            tensor = tensor + np.float32(1)
        if stem.endswith("shared_expert_gate"):
            tensor = tensor[0]
        if stem.endswith("kv_b_proj") and split_latent:
            block, own = f"blk.{name.split('.')[2]}.", config["qk_nope_head_dim"]
            both = tensor.reshape(heads, -1, tensor.shape[-1])
            result[f"{block}attn_k_b.weight"] = both[:, :own].swapaxes(1, 2)
            result[f"{block}attn_v_b.weight"] = both[:, own:]
            continue
        found = name_map.get_name(stem)
        assert found is not None, name
        result[f"{found}.{suffix}"] = tensor
    for stem, of in experts.items():
        found = name_map.get_name(stem)
        assert found is not None, stem
        result[f"{found}.weight"] = np.stack([of[number] for number in sorted(of)])
    rope = config["rope_parameters"]
    if rope.get("rope_type") == "longrope":
        result |= {
            f"rope_factors_{kind}.weight": np.asarray(rope[f"{kind}_factor"], np.float32) for kind in ("short", "long")
        }
    return result
