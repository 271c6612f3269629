"""Negative log likelihood of the reference responses under an edited model.

Axis legend: S token slots of a batch, R texts of a batch, V vocabulary, I instructions.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float64, Int

from sparcom_jax.batches.packing import Feed, Variants, feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import EDIT_SPECS, Placement, Step
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.config import DecoderConfig
from sparcom_jax.models.decoder import Params, bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.models.faults import all_finite, first_fault
from sparcom_jax.models.loss import next_token_nll
from sparcom_jax.progress import progress

UNTOUCHED = " with nothing switched off"


class Likelihood:
    """Scores the same texts again and again, under different edits.

    Layers below the first that any edit acts on run once; of every text, their residual stream waits in memory.
    """

    def __init__(
        self,
        model: PlacedModel,
        texts: TokenizedSet,
        names: Sequence[str],
        batch_tokens: int,
        variants: Variants | None = None,
        first_layer: int = 0,
    ) -> None:
        """Packs the texts once, for all edits.

        Args:
          model: the model on its devices.
          texts: prompts with their responses, whose tokens count.
          names: what they are called.
          batch_tokens: token slots of a batch, per device.
          variants: of a text, which variant of the edits each token is under; None: the first.
          first_layer: the first layer that any of the edits acts on.

        Raises:
          InputError: what those layers compute is not finite.
        """
        self._model = model
        self._texts = texts
        self._names = names
        # One block: nothing is written in between, so all texts may share batches.
        (bins,) = make_plan(texts.lengths, len(texts.ids), batch_tokens).blocks
        # A slot counts if the token that it predicts, the next one, counts.
        self._feeds = list(feeds(texts, bins, model.placement.data, texts.predicting, variants))
        self._start = model.config.boundary(first_layer)
        if self._start:
            self._feeds = list(self._begun())

    def mean_nll(
        self, edits: Edits, when: str, advance: Callable[[int], object] = lambda _: None
    ) -> Float64[np.ndarray, "I"]:
        """Mean negative log likelihood of the counted tokens of each text, in nats per token.

        Args:
          edits: interventions; every field that the model has units for is set, so that all calls share one
            compilation.
          when: what they do to the model, for an error.
          advance: told of every batch, how many texts it has.

        Raises:
          InputError: the likelihood of a text, or what leads to it, is not finite.
        """
        placement = self._model.placement
        step = partial(likelihood_step, self._model.config, placement=placement, start=self._start)
        sums = np.zeros(len(self._texts.ids))
        for found in finite_sweep(self._model, self._feeds, step, self._names, placement.put(edits, EDIT_SPECS), when):
            sums[list(found.texts)] = found.values[: len(found.texts)]
            advance(len(found.texts))
        return sums / self._texts.counted

    def _begun(self) -> Iterator[Feed]:
        """The batches, with the residual stream that the layer `_start` reads."""
        step = partial(stream_step, self._model.config, placement=self._model.placement, layer=self._start)
        found = finite_sweep(self._model, self._feeds, step, self._names, when=UNTOUCHED)
        with progress(f"layers before {self._start}", len(self._names), "texts") as bar:
            for feed in self._feeds:
                streams = [one.values for one in itertools.islice(found, len(feed.bins))]
                streams += [np.zeros_like(streams[0])] * (self._model.placement.data - len(streams))
                stream: Any = np.stack(streams)
                yield feed._replace(batch=feed.batch._replace(stream=stream))
                bar.advance(sum(len(one.texts) for one in feed.bins))


@lru_cache(maxsize=64)
def stream_step(config: DecoderConfig, shape: Shape, placement: Placement, layer: int) -> Step:
    """The compiled step of the layers before one.

    Returns:
      A function of (params, batches, None), which gives the residual stream that the layer reads `[data, S, D]`, and
      the first fault of each text `[data, R]`.
    """

    def step(params: Params, batch: Batch, nothing: None) -> tuple[Float[Array, "S D"], Int[Array, "R"]]:
        del nothing
        with jax.default_matmul_precision("highest"):
            stream, finite = bind(config, params).stream(batch, shape, layer, compute=placement.compute)
        return stream, first_fault(finite, batch.row, shape.rows)

    return placement.compile(step, config, None, (P(), P()))


@lru_cache(maxsize=64)
def likelihood_step(config: DecoderConfig, shape: Shape, placement: Placement, start: int = 0) -> Step:
    """The compiled step of a batch shape, from a layer on (`Decoder.__call__`).

    Returns:
      A function of (params, batches, edits), which gives the summed negative log likelihood and the first fault
      (`models/faults.py`) of each text, both `[data, R]`.
    """

    def step(params: Params, batch: Batch, edits: Edits) -> tuple[Float[Array, "R"], Int[Array, "R"]]:
        with jax.default_matmul_precision("highest"):
            decoder = bind(config, params)
            output = decoder(batch, shape, edits=edits, compute=placement.compute, start=start)
            nll = next_token_nll(decoder, output.hidden, jnp.roll(batch.token, -1), batch.counted)
        ends = jnp.stack([all_finite(output.hidden), jnp.isfinite(nll)])
        fault = first_fault(jnp.concatenate([output.finite, ends]), batch.row, shape.rows)
        return jax.ops.segment_sum(nll, batch.row, shape.rows, indices_are_sorted=True), fault

    return placement.compile(step, config, EDIT_SPECS, (P(), P()))
