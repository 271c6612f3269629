"""The forward pass alone: what a capture cannot be faster than, and the operations that it needs."""

from functools import cache
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from sparcom_jax.batches.packing import Feed, feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.engine.placement import Placement
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, abstract_params, bind


@cache
def bare_step(config: DecoderConfig, shape: Shape, placement: Placement) -> Any:
    """A compiled step like the capture's, of which nothing is kept but one number a layer."""

    def step(params: Params, batch: Batch, nothing: None) -> Any:
        del nothing
        with jax.default_matmul_precision("highest"):
            read = bind(config, params)(
                batch,
                shape,
                reduce=lambda taps: {name: tap.gate.sum() for name, tap in taps.items()},
                compute=placement.compute,
            )
        return read.taps

    return placement.compile(step, config, None, P())


def feeds_of(texts: TokenizedSet, rows_per_block: int, slots: int, placement: Placement) -> list[Feed]:
    """All batches of a capture, as its steps take them."""
    return [
        feed
        for block in make_plan(texts.lengths, rows_per_block, slots).blocks
        for feed in feeds(texts, block, placement.data, texts.counting)
    ]


def needed_flops(config: DecoderConfig) -> float:
    """Floating point operations of the projections, for a token; of the last layer's MLP, the gate alone is needed."""
    total = 0.0
    for path, leaf in jax.tree.leaves_with_path(abstract_params(config)):
        keys = [str(key.key) for key in path]
        last = keys[0] == "segments" and int(keys[1]) == len(config.segments) - 1
        if keys[0] != "segments" or leaf.ndim < 3 or (last and keys[-2 + ("routed" in keys)] in ("up", "down")):
            continue
        share = config.experts.per_token / config.experts.count if config.experts and "routed" in keys else 1.0
        total += 2 * leaf.size * share
    return total
