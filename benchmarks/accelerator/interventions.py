"""Models with units switched off, or turned a little: in torch, and the likelihoods and slopes of either side.

Axis legend: I instructions, R texts of a batch, L layers, S token slots, K experts of a token.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from jaxtyping import Array, Float, Float64

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.context import Compute
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.kernels.choice import Kernels
from sparcom_jax.models.taps import LayerTaps, RoutedTap
from sparcom_jax.units.groups import EXPERT_GROUP, model_groups
from sparcom_jax.verify.reference import Reference


def random_edits(config: DecoderConfig, share_off: float) -> Edits:
    """Edits that switch off a share of the neurons, the same at every call, and one expert of each layer.

    With a share of 0, nothing is switched off.
    """
    random = np.random.default_rng(0)
    off = {}
    for group in model_groups(config):
        off[group.name] = random.random(group.shape) < share_off
        if group.name == "routed":
            off[EXPERT_GROUP] = np.zeros(group.shape[:2], bool)
            if share_off:
                expert = random.integers(0, group.sizes[0], len(group.layers))
                off[EXPERT_GROUP][np.arange(len(expert)), expert] = True
    return Edits.switch_off(off)


def switch_off(reference: Reference, config: DecoderConfig, edits: Edits) -> None:
    """Takes units out of a model in torch: the weights that read a neuron become 0, an expert cannot be chosen.

    They are those that are off under the first variant.
    """

    def kept(group: str, layer: int) -> torch.Tensor:
        values: Any = edits.expert if group == EXPERT_GROUP else getattr(edits, group).scale
        return torch.tensor(values[layer, 0], device=reference.device)

    with torch.no_grad():
        for group in model_groups(config):
            for index, layer in enumerate(group.layers):
                path = f"{reference.layer(layer)}.mlp"
                keep = kept(group.name, index)
                if group.name == "routed":
                    block = reference.model.get_submodule(path)
                    transposed = hasattr(block.experts, "alpha")  # gpt-oss keeps its weights the other way round
                    block.experts.down_proj *= keep[:, :, None] if transposed else keep[:, None, :]
                    _mask(block.gate if hasattr(block, "gate") else block.router, ~kept(EXPERT_GROUP, index))
                else:
                    mlp = reference.shared(path) if group.name == "shared" else path
                    reference.model.get_submodule(f"{mlp}.down_proj").weight *= keep


def _mask(router: Any, off: torch.Tensor) -> None:
    """Makes the logits of experts minus infinity."""
    if hasattr(router, "bias"):
        router.bias[off] = -torch.inf
        return

    def forward(hidden: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        hidden = hidden.reshape(-1, hidden.shape[-1])
        logits = torch.nn.functional.linear(hidden, router.weight).masked_fill(off, -torch.inf)
        weight, chosen = logits.softmax(dim=-1).topk(router.top_k, dim=-1)
        return logits, weight * getattr(router, "routed_scaling_factor", 1.0), chosen

    router.forward = forward


def nll_of_torch(reference: Reference, texts: TokenizedSet) -> Float64[np.ndarray, "I"]:
    """As `Likelihood.mean_nll`."""
    means = []
    for row, ids in enumerate(texts.ids):
        logits = torch.tensor(reference.run(ids, {})["logits"], dtype=torch.float64)
        scored = np.flatnonzero(texts.predicting(row))
        means.append(-torch.log_softmax(logits, -1).numpy()[scored, ids[scored + 1]].mean())
    return np.asarray(means)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Slopes:
    """Likelihoods and their gradient.

    Attributes:
      nll: summed negative log likelihood of each text, `[R]`.
      chosen: experts of each token, rising, `[L, S, K]`; None where the model has none.
      gradient: of the weighted sum of `nll`, for every unit.
    """

    nll: Float[Array, "R"]
    chosen: Any
    gradient: Edits


@partial(jax.jit, static_argnums=(0, 1, 2))
def slopes_at(
    config: DecoderConfig,
    shape: Shape,
    kernels: Kernels,
    params: Params,
    batch: Batch,
    edits: Edits,
    weight: Float[Array, "R"],
) -> Slopes:
    """Likelihoods of a batch under edits, and the gradient of their weighted sum at the edits."""

    def choices(taps: LayerTaps) -> dict[str, Any]:
        return {name: jnp.sort(tap.chosen) for name, tap in taps.items() if isinstance(tap, RoutedTap)}

    def total(edits: Edits) -> tuple[Array, tuple[Array, Any]]:
        decoder = bind(config, params)
        output = decoder(batch, shape, edits=edits, reduce=choices, compute=Compute(None, kernels))
        share = jax.nn.log_softmax(decoder.logits(output.hidden))
        nll = -jnp.take_along_axis(share, jnp.roll(batch.token, -1)[:, None], axis=1)[:, 0]
        of_text = jax.ops.segment_sum(jnp.where(batch.counted, nll, 0.0), batch.row, shape.rows)
        return of_text @ weight, (of_text, output.taps.get("routed"))

    with jax.default_matmul_precision("highest"):
        (_, (nll, chosen)), gradient = jax.value_and_grad(total, has_aux=True)(edits)
    return Slopes(nll, chosen, gradient)


def routed_alike(batch: Batch, rows: int, *chosen: Any) -> Float[np.ndarray, "R"]:
    """1 for texts whose tokens have the same experts in all of these, 0 for others."""
    if chosen[0] is None:
        return np.ones(rows, np.float32)
    unlike = np.stack([(np.asarray(one) != np.asarray(chosen[0])).any(axis=(0, 2)) for one in chosen]).any(axis=0)
    return (np.bincount(np.asarray(batch.row), unlike, rows + 1)[:rows] == 0).astype(np.float32)
