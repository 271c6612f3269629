"""Quantised checkpoints: which schemes are known, and what their tensors are in floating point.

Axes: E experts, R rows (outputs) and C columns (inputs) of a matrix, G blocks of a row, B bytes of a block.
"""

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
from jaxtyping import Num, UInt8

from sparcom_jax.convert.tensors import Derived, Recipe, Tensors
from sparcom_jax.errors import InputError, first_of

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
FP4 = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""Values of the four-bit codes of MXFP4 (e2m1; Open Compute Project 2023, OCP Microscaling Formats)."""

Float = Num[np.ndarray, "..."]


def scheme_of(quantization: Any) -> str:
    """The scheme of a `quantization_config`: `mxfp4`, `fp8` or `compressed-tensors`.

    Raises:
      InputError: it is another one, or has a part that is not handled.
    """
    method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
    if method == "mxfp4":
        return "mxfp4"
    if method == "fp8":
        if quantization.get("fmt", "e4m3") != "e4m3":
            raise InputError(f"quantization_config: fmt {quantization['fmt']!r} of fp8 is not handled")
        return "fp8"
    if method == "compressed-tensors":
        for name, group in (quantization.get("config_groups") or {}).items():
            weights = group.get("weights") or {}
            kind = (weights.get("type"), weights.get("num_bits"), weights.get("symmetric", True))
            if kind != ("float", 8, True) or weights.get("strategy") not in ("tensor", "channel", "block"):
                raise InputError(f"quantization_config: compressed-tensors group {name!r} is "
                                 f"{weights.get('num_bits')}-bit {weights.get('type')} by {weights.get('strategy')}; "
                                 f"handled: symmetric 8-bit float by tensor, channel or block")  # fmt: skip
        if quantization.get("sparsity_config"):
            raise InputError("quantization_config: sparsity_config is not handled")
        return "compressed-tensors"
    raise InputError(f"quantization_config: quant_method {method!r} is not handled; handled: mxfp4, fp8, and "
                     f"compressed-tensors of 8-bit floats")  # fmt: skip


def dequantised(tensors: Tensors, quantization: dict[str, Any], dtype: str) -> tuple[Derived, list[str]]:
    """The tensors of a quantised checkpoint in floating point.

    Args:
      tensors: as they lie in the files.
      quantization: the `quantization_config`, of a scheme that `scheme_of` knows.
      dtype: what all are turned into.

    Returns:
      The tensors, and the names of those that were quantised.

    Raises:
      InputError: tensors do not fit the scheme.
    """
    recipes = _mxfp4(tensors, dtype) if scheme_of(quantization) == "mxfp4" else _float8(tensors, quantization, dtype)
    used = {name for recipe in recipes.values() for name in recipe.inputs}
    scales = {name for name in tensors.names if name.rpartition(".")[2] in ACTIVATION_SCALES}
    plain = {name: Recipe((name,), tensors.shape(name), dtype, lambda tensor: tensor.astype(dtype))
             for name in tensors.names - used - scales - recipes.keys()}  # fmt: skip
    return Derived(tensors, plain | recipes), sorted(recipes)


ACTIVATION_SCALES = {"activation_scale", "input_scale", "output_scale", "k_scale", "v_scale", "q_scale"}
"""Scales of what is computed, not of weights: without quantised arithmetic they have no use."""


def _mxfp4(tensors: Tensors, dtype: str) -> dict[str, Recipe]:
    recipes = {}
    for blocks in (name for name in tensors.names if name.endswith("_blocks")):
        name = blocks.removesuffix("_blocks")
        scales, shape = f"{name}_scales", tensors.shape(blocks)
        if scales not in tensors.names or tensors.shape(scales) != shape[:-1]:
            raise InputError(f"tensor {blocks!r} has no scales {list(shape[:-1])} at {scales!r}")
        experts, rows, groups, width = shape
        recipes[name] = Recipe((blocks, scales), (experts, groups * width * 2, rows), dtype,
                               lambda blocks, scales: mxfp4(blocks, scales, dtype))  # fmt: skip
    return recipes


def mxfp4(blocks: UInt8[np.ndarray, "E R G B"], scales: UInt8[np.ndarray, "E R G"], dtype: str) -> Float:
    """Dequantises experts: blocks of 32 four-bit codes that share a power of two.

    Args:
      blocks: two codes a byte, the lower half first.
      scales: exponents of two, counted from -127.
      dtype: of the result; every value is exact in bfloat16.

    Returns:
      `[E, C, R]`, as transformers keeps such experts.
    """
    pairs = np.stack([FP4[np.arange(256) & 15], FP4[np.arange(256) >> 4]], axis=-1)
    experts, rows, groups, width = blocks.shape
    out = np.empty((experts, groups * width * 2, rows), dtype)
    for expert in range(experts):  # one at a time: float32 in between takes eight times the bytes of the blocks
        values = pairs[blocks[expert]].reshape(rows, groups, 2 * width)
        values = np.ldexp(values, scales[expert, :, :, None].astype(np.int32) - 127)
        out[expert] = values.reshape(rows, -1).T.astype(dtype)
    return out


def _float8(tensors: Tensors, quantization: dict[str, Any], dtype: str) -> dict[str, Recipe]:
    compressed = quantization["quant_method"] == "compressed-tensors"
    suffix = "_scale" if compressed else "_scale_inv"
    block = _block(quantization)
    recipes, faults = {}, []
    for name in (name for name in tensors.names if tensors.dtype(name) in FLOAT8):
        shape, scale = tensors.shape(name), name + suffix
        if scale not in tensors.names:
            faults.append(f"{name} has no {suffix.removeprefix('_')}")
        elif len(shape) != 2 or tensors.shape(scale) not in _scale_shapes(*shape, block):
            faults.append(f"{name} is {list(shape)}, its scales {list(tensors.shape(scale))}")
        else:
            between = tensors.dtype(scale) if compressed else "float32"
            recipes[name] = Recipe((name, scale), shape, dtype, _scaled(block, between, dtype))
    if faults:
        raise InputError(f"8-bit tensors: {first_of(sorted(faults))}")
    return recipes


def _scale_shapes(rows: int, columns: int, block: tuple[int, int] | None) -> list[tuple[int, ...]]:
    shapes: list[tuple[int, ...]] = [(), (1,), (1, 1), (rows,), (rows, 1)]
    return [(-(-rows // block[0]), -(-columns // block[1]))] if block else shapes


def _scaled(block: tuple[int, int] | None, between: str, dtype: str) -> Callable[[Float, Float], np.ndarray]:
    return lambda weight, scale: float8(weight, scale, block, between).astype(dtype)


def _block(quantization: dict[str, Any]) -> tuple[int, int] | None:
    groups = (quantization.get("config_groups") or {}).values()
    blocks = [group["weights"].get("block_structure") for group in groups] or [quantization.get("weight_block_size")]
    return (int(blocks[0][0]), int(blocks[0][1])) if blocks[0] else None


def float8(weight: Float, scale: Float, block: tuple[int, int] | None, dtype: str) -> Float:
    """Dequantises a matrix: every value times the scale of its tensor, row or block.

    Args:
      weight: `[R, C]` in an 8-bit float.
      scale: one for all (`[]`, `[1]`, `[1, 1]`), for every row (`[R]`, `[R, 1]`), or for every block.
      block: rows and columns of a block, where there are blocks; those at the end may be cut.
      dtype: in which value and scale are multiplied.
    """
    wide = scale.view(ml_dtypes.float8_e8m0fnu) if scale.dtype == np.uint8 else scale
    wide = wide.astype(np.float32)
    if block is not None and wide.ndim == 2:
        rows, columns = weight.shape
        wide = np.repeat(np.repeat(wide, block[0], axis=0)[:rows], block[1], axis=1)[:, :columns]
    elif wide.ndim == 1:
        wide = wide[:, None]
    return (weight.astype(np.float32) * wide).astype(dtype)
