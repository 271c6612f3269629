"""LoRA adapters in PEFT's format, merged into the tensors of their base model.

LoRA (Hu et al. 2022) adds scale B A to a weight [outputs, inputs]; rank-stabilised LoRA (Kalajdzievski 2023) scales by
alpha / sqrt(r) instead of alpha / r; DoRA (Liu et al. 2024) then gives every row a learnt length.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from sparcom_jax.convert.files import open_adapter_files
from sparcom_jax.convert.names import Source, parameter_sources
from sparcom_jax.convert.tensors import Derived, Joined, Recipe, Tensors, renamed
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.strict_json import loads

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Fields that say where an adapter is, which its tensors say too, or how it was trained.
IGNORED = {
    "auto_mapping", "base_model_name_or_path", "corda_config", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern", "layers_to_transform", "lora_dropout", "lora_ga_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "revision", "runtime_config",
    "target_modules", "task_type",
}  # fmt: skip
HANDLED = {"alpha_pattern", "bias", "lora_alpha", "r", "rank_pattern", "use_dora", "use_rslora"}
STARTS = (True, False, "gaussian", "eva", "orthogonal")
"""Ways to initialise an adapter that leave the base model as it is."""
NAME = re.compile(
    r"^base_model\.model\.(?P<module>.+?)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.weight)?$"
)

MARK = "adapter:"
"""Begins the adapter's names where both are in one place."""


@dataclass(frozen=True)
class Product:
    """A product of low rank `scale * a @ b` that is added to a stored parameter `[inputs, outputs]`."""

    a: np.ndarray
    b: np.ndarray


@dataclass(frozen=True)
class Adapter:
    """An adapter on disk.

    Attributes:
      path: its directory.
      config: content of adapter_config.json.
      tensors: its tensors.
    """

    path: Path
    config: dict[str, Any]
    tensors: Tensors

    def scale(self, module: str) -> float:
        """What B A of a module is multiplied with."""
        rank = self.rank(module)
        alpha = float(_by_pattern(self.config.get("alpha_pattern"), module, self.config.get("lora_alpha", 8)))
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def rank(self, module: str) -> int:
        """Rank r of a module's adapter."""
        return int(_by_pattern(self.config.get("rank_pattern"), module, self.config.get("r", 8)))


def _by_pattern(patterns: dict[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name ends with, as PEFT matches them."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def open_adapter(path: Path) -> Adapter:
    """Opens an adapter directory.

    Raises:
      InputError: it is none, is not LoRA, or has a setting that merging does not honour.
    """
    file = path / CONFIG
    if not file.exists():
        raise InputError(f"{path}: not a LoRA adapter (no {CONFIG})")
    config = loads(file.read_bytes(), str(file))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise InputError(f"{file}: peft_type {kind!r} is not handled; handled: LORA")
    faults = [
        f"{field} = {value!r}"
        for field, value in sorted(config.items())
        if field not in IGNORED | HANDLED | {"init_lora_weights"} and value not in (None, False, {}, [])
    ]
    if (start := config.get("init_lora_weights", True)) not in STARTS:
        faults.append(f"init_lora_weights = {start!r} (it changes the base model)")
    if faults:
        raise InputError(f"{file}: {'; '.join(faults)}: not handled when an adapter is merged")
    return Adapter(path, config, open_adapter_files(path, WEIGHTS))


def merged(base: Tensors, adapter: Adapter, tied: bool, rename: Callable[[str], str | None]) -> tuple[Derived, int]:
    """The base model's tensors with an adapter merged into them.

    Sums are computed in float32 and rounded once, to the dtype of the base model's tensor.

    Args:
      base: tensors of the base model, in floating point.
      adapter: the adapter.
      tied: whether the output head is the embedding.
      rename: the name of a tensor of the adapter's own base model in `base`.

    Returns:
      The tensors, and how many of them are changed.

    Raises:
      InputError: the adapter does not fit the model.
    """
    modules: dict[str, dict[str, str]] = {}
    whole: dict[str, str] = {}
    for name in sorted(adapter.tensors.names):
        if match := NAME.match(name):
            modules.setdefault(match["module"], {})[match["part"]] = name
        else:
            plain = re.sub(r"\.(?:base_layer|modules_to_save(?:\.default)?)\.", ".", name)
            whole[plain.removeprefix("base_model.model.")] = name
    mine = Derived(adapter.tensors, {MARK + name: renamed(adapter.tensors, name) for name in adapter.tensors.names})
    both = Joined(mine, base)
    recipes: dict[str, Recipe] = {}
    for plain, name in whole.items():
        target = rename(plain)
        if target == "lm_head.weight" and tied and target not in base.names:
            raise InputError(f"{adapter.path}: replaces the output head, which is the embedding in this model")
        _require(adapter, base, target, plain)
        assert target is not None
        if base.shape(target) != adapter.tensors.shape(name):
            raise InputError(f"{adapter.path}: {plain} is {list(adapter.tensors.shape(name))}, the base model's "
                             f"{list(base.shape(target))}")  # fmt: skip
        dtype = base.dtype(target)
        recipes[target] = Recipe((MARK + name,), base.shape(target), dtype, _caster(dtype))
    for module, parts in modules.items():
        target = rename(f"{module}.weight")
        _require(adapter, base, target, f"{module}.weight")
        assert target is not None
        recipes[target] = _recipe(adapter, base, target, module, parts, recipes)
    if tied and "model.embed_tokens.weight" in recipes:
        raise InputError(f"{adapter.path}: changes the embedding, which is the output head, too, in this model")
    return Derived(both, recipes, base.names - recipes.keys()), len(recipes)


def write_adapter(config: DecoderConfig, products: Mapping[str, Product], alpha: float, base: str, path: Path) -> None:
    """Writes products as an adapter in PEFT's format.

    Where several parameters share a tensor, their products stand one after another in one of a higher rank, whose alpha
    is as much higher.

    Args:
      config: the model.
      products: by the path of the stored parameter; all have one rank.
      alpha: lora_alpha: products are multiplied by `alpha / rank`.
      base: what the base model is called.
      path: directory to write into, which is there.
    """
    sources = parameter_sources(config)
    modules: dict[str, list[tuple[Source, Product]]] = {}
    for name, product in products.items():
        (source,) = sources[name][1]
        modules.setdefault(source.name.removesuffix(".weight"), []).append((source, product))
    rank = next(iter(products.values())).a.shape[1]
    tensors, ranks = {}, {}
    for module, parts in modules.items():
        ranks[module] = rank * len(parts)
        outputs = parts[0][0].shape[0]
        high = np.zeros((outputs, ranks[module]), np.float32)
        for number, (source, product) in enumerate(parts):
            assert (source.transposed, source.axis) == (True, 0)  # as torch's Linear keeps it
            rows = slice(None) if source.rows is None else source.rows
            high[rows, number * rank : (number + 1) * rank] = product.b.T
        prefix = f"base_model.model.{module}"
        low = np.concatenate([product.a.T for _, product in parts])
        # Contiguous, because safetensors writes the memory as it lies.
        tensors[f"{prefix}.lora_A.weight"] = np.ascontiguousarray(low, np.float32)
        tensors[f"{prefix}.lora_B.weight"] = high
    other = {module: r for module, r in ranks.items() if r != rank}
    save_file(tensors, path / WEIGHTS, {"format": "pt"})
    content = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base, "r": rank,
        "lora_alpha": alpha, "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
        "init_lora_weights": True, "use_rslora": False, "use_dora": False, "target_modules": list(modules),
        "rank_pattern": {re.escape(module): r for module, r in other.items()},
        "alpha_pattern": {re.escape(module): alpha * r / rank for module, r in other.items()},
    }  # fmt: skip
    (path / CONFIG).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _caster(dtype: str) -> Callable[[np.ndarray], np.ndarray]:
    return lambda tensor: tensor.astype(dtype)


def _require(adapter: Adapter, base: Tensors, target: str | None, name: str) -> None:
    if target is None or target not in base.names:
        raise InputError(f"{adapter.path}: adapts {name}, which the base model does not have")


def _recipe(
    adapter: Adapter, base: Tensors, target: str, module: str, parts: dict[str, str], whole: dict[str, Recipe]
) -> Recipe:
    """The weight of a module with its adapter; `whole` are the tensors that the adapter replaces altogether."""
    embedding = "lora_embedding_A" in parts
    low, high = ("lora_embedding_A", "lora_embedding_B") if embedding else ("lora_A", "lora_B")
    if missing := [part for part in (low, high) if part not in parts]:
        raise InputError(f"{adapter.path}: {module} lacks {first_of(missing)}")
    rank, shape = adapter.rank(module), base.shape(target)
    down, up = adapter.tensors.shape(parts[low]), adapter.tensors.shape(parts[high])
    wanted = ((rank, shape[0]), (shape[1], rank)) if embedding else ((rank, shape[1]), (shape[0], rank))
    if (down, up) != wanted:
        raise InputError(f"{adapter.path}: {module} has {low} {list(down)} and {high} {list(up)}; its weight "
                         f"{list(shape)} and rank {rank} want {list(wanted[0])} and {list(wanted[1])}")  # fmt: skip
    lengths = parts.get("lora_magnitude_vector")
    if bool(lengths) != bool(adapter.config.get("use_dora")):
        raise InputError(f"{adapter.path}: {module} does not fit use_dora of {CONFIG}")
    inputs = [MARK + parts[low], MARK + parts[high], *([MARK + lengths] if lengths else [])]
    inputs += whole[target].inputs if target in whole else (target,)
    scale, dtype = adapter.scale(module), base.dtype(target)

    def make(*tensors: np.ndarray) -> np.ndarray:
        down, up, *rest, weight = (tensor.astype(np.float32) for tensor in tensors)
        change = (up @ down).T if embedding else up @ down
        adapted = weight + np.float32(scale) * change
        if rest:
            adapted *= (rest[0].reshape(-1) / np.linalg.norm(adapted, axis=1))[:, None]
        return adapted.astype(dtype)

    return Recipe(tuple(inputs), shape, dtype, make)
