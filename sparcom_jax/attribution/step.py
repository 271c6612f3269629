"""The compiled step of an attribution: a batch of texts in, the value of every unit for each of them out.

Axis legend: R texts of a batch, L layers, K points of the path.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int32

from sparcom_jax.engine.placement import EDIT_SPECS, Placement, Step
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.models.faults import all_finite, first_fault
from sparcom_jax.models.loss import next_token_nll
from sparcom_jax.units.groups import EXPERT_GROUP, model_groups

Values = dict[str, Float32[Array, "L R *units"]]


@lru_cache(maxsize=64)
def attribution_step(config: DecoderConfig, shape: Shape, placement: Placement) -> Step:
    """The compiled step of a batch shape.

    Every text is under a variant of the edits of its own. So one gradient of the sum of all texts' log likelihoods with
    respect to what multiplies the inputs of `down_proj` holds, for every text apart, the sum over its tokens of
    activation times gradient; and with respect to what multiplies the routing weights, the same of the experts.

    Returns:
      A function of (params, batches, path `[K]`), which gives the mean of these over the path by group of units,
      `[data, L, R, *units]` in nats per token, and the first fault (`models/faults.py`) of each text, `[data, R]`.
    """
    compute = replace(placement.compute, keep="nothing")
    shapes = {group.name: (group.sizes[0] // placement.model, *group.sizes[1:]) for group in model_groups(config)}
    layers = {group.name: len(group.layers) for group in model_groups(config)}

    def edits_at(alpha: Float[Array, ""]) -> Edits:
        """All units at alpha: the routed neurons by way of the weight of their expert, which has no other share."""
        ones = {name: jnp.ones((layers[name], shape.rows, *sizes)) for name, sizes in shapes.items()}
        fields: dict[str, Any] = {
            name: NeuronEdit(one if name == "routed" else alpha * one) for name, one in ones.items()
        }
        if config.experts and "routed" in shapes:
            fields["gate"] = alpha * jnp.ones((layers["routed"], shape.rows, config.experts.count))
        return Edits(**fields)

    def step(params: Params, batch: Batch, path: Float[Array, "K"]) -> tuple[Values, Int32[Array, "R"]]:
        batch = batch._replace(variant=jnp.minimum(batch.row, shape.rows - 1))
        tokens = jax.ops.segment_sum(batch.counted.astype(jnp.float32), batch.row, shape.rows, indices_are_sorted=True)

        def log_likelihoods(edits: Edits) -> tuple[Float[Array, ""], Int32[Array, "R"]]:
            decoder = bind(config, params)
            output = decoder(batch, shape, edits=edits, compute=compute)
            nll = next_token_nll(decoder, output.hidden, jnp.roll(batch.token, -1), batch.counted)
            ends = jnp.stack([all_finite(output.hidden), jnp.isfinite(nll)])
            fault = first_fault(jnp.concatenate([output.finite, ends]), batch.row, shape.rows)
            of_text = jax.ops.segment_sum(nll, batch.row, shape.rows, indices_are_sorted=True) / jnp.maximum(tokens, 1)
            return -jnp.sum(of_text), fault

        def add(total: Values, alpha: Float[Array, ""]) -> tuple[Values, Int32[Array, "R"]]:
            gradient, fault = jax.grad(log_likelihoods, has_aux=True)(edits_at(alpha))
            found = {name: getattr(gradient, name).scale for name in shapes}
            if "routed" in found:
                found |= {"routed": found["routed"] / alpha, EXPERT_GROUP: gradient.gate}
            return jax.tree.map(lambda sums, one: sums + one / len(path), total, found), fault

        start: Any = {name: jnp.zeros((layers[name], shape.rows, *sizes)) for name, sizes in shapes.items()}
        if config.experts and "routed" in shapes:
            start[EXPERT_GROUP] = jnp.zeros((layers["routed"], shape.rows, config.experts.count))
        with jax.default_matmul_precision("highest"):
            total, faults = jax.lax.scan(add, start, path)
        return total, jnp.min(faults, axis=0)

    specs = {name: getattr(EDIT_SPECS, name) for name in shapes}
    if "routed" in specs:
        specs[EXPERT_GROUP] = EDIT_SPECS.gate
    return placement.compile(step, config, P(), (specs, P()))
