"""What neurons write at their mean, as a shift of the bias of the down projection."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from sparcom_jax.causal.texts import require_model_of, texts_of
from sparcom_jax.causal.values import measure_means
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.convert.patch import Change
from sparcom_jax.convert.slices import tensor_slices
from sparcom_jax.edit.source import EditedSource
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import one_device
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.stored import stored_params
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.units.parameters import ParameterSlice

BIAS = {"mlp": "mlp/down/bias", "shared": "moe/shared/down/bias", "routed": "moe/routed/down_bias"}
KERNEL = {"mlp": "mlp/down/kernel", "shared": "moe/shared/down/kernel", "routed": "moe/routed/down"}
"""By group, where the down projection of a layer is."""


def shifts(
    source: EditedSource, chosen: list[tuple[str, int, Bool[np.ndarray, "..."]]], model: ModelDir | str | Path,
    run: Run | str | Path,
) -> Iterator[Change]:  # fmt: skip
    """What is added to the biases of down_proj: of every neuron its mean times its column.

    Means are those of `ablate` with how mean: over all tokens of the run's instructions with their responses; of
    routed neurons over the tokens that are routed to their expert.

    Args:
      source: the checkpoint.
      chosen: the units: group, the model's number of the layer, and mask of the layer.
      model: the same model, converted.
      run: whose instructions are read.

    Raises:
      InputError: a down projection has no bias, the model is another one, or no instruction has a response.
    """
    stored = stored_params(source.config)
    for name, layer, _ in chosen:
        if f"layers/{layer}/{BIAS[name]}" not in stored:
            raise InputError(f"{source.name}: its down projections have no bias, which would have to hold what neurons "
                             f"write at their mean; how=zero and how=scale can be written")  # fmt: skip
    means = _means(as_model(model), as_run(run))
    for name, layer, mask in chosen:
        path = f"layers/{layer}/{KERNEL[name]}"
        kernel = np.asarray(source.weights.read([path], lambda: None)[path]).astype(np.float64)
        mean = means[name][source.units.groups[name].layers.index(layer)].astype(np.float64)
        bias, every = f"layers/{layer}/{BIAS[name]}", tuple(range(kernel.shape[-1]))
        for expert in np.flatnonzero(mask.any(axis=-1)).tolist() if name == "routed" else [None]:
            index = () if expert is None else (expert,)
            (part,) = tensor_slices(source.config, [ParameterSlice("down_bias", bias, index, 0, every)])
            off = mask[index]
            yield Change(part, 1.0, shift=(mean[index][off] @ kernel[index][off]).astype(np.float32))


def _means(model: ModelDir, run: Run) -> dict[str, np.ndarray]:
    """By group, the mean input of down_proj of every neuron, `[L, ...]`."""
    run.require_complete()
    require_model_of(run, model)
    rows = np.flatnonzero([bool(row.get("response")) for row in run.instructions])
    if not len(rows):
        raise InputError(f"{run.location}: no instruction has a response, over whose tokens means could be taken")
    dtype, names = ExecutionSettings().dtype, [run.instructions[row]["id"] for row in rows]
    placed = place_model(model, one_device(), compute_dtype(dtype, model.dtype))
    texts = texts_of(model, run, rows)
    found = measure_means(placed, texts, run.category[rows], len(run.categories), names,
                          ExecutionSettings().batch_tokens, others=False)  # fmt: skip
    return {name: values[:, 0] for name, values in found.of(0).items()}
