"""The compiled steps of training: the gradient of a batch, what the optimizer makes of it, and the loss of texts.

Axis legend: S token slots of a batch, R texts of a batch.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Float32, Int32

from sparcom_jax.engine.placement import Placement, param_specs
from sparcom_jax.models.batch import Batch, Shape
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.faults import all_finite, first_fault
from sparcom_jax.models.loss import next_token_nll
from sparcom_jax.tune.settings import TuneSettings
from sparcom_jax.tune.trained import Trained, Values, global_norm


class Training(NamedTuple):
    """What changes while a model is trained.

    Attributes:
      values: what is trained.
      state: the optimizer's.
    """

    values: Values
    state: Any


class Sums(NamedTuple):
    """What the batches of a step have summed up.

    Attributes:
      gradient: of the summed loss.
      nll: the summed loss, in nats.
      tokens: how many tokens that is of.
    """

    gradient: Values
    nll: Float32[Array, ""]
    tokens: Float32[Array, ""]


class Taken(NamedTuple):
    """What a step was.

    Attributes:
      loss: mean over its tokens, before it.
      norm: of the gradient, before it was clipped.
      good: whether both are finite; else nothing has changed.
    """

    loss: Float32[Array, ""]
    norm: Float32[Array, ""]
    good: Bool[Array, ""]


class Steps:
    """The compiled steps of one training.

    Attributes:
      dtype: that the model runs in.
      devices: batches that a step takes at a time.
      rates: the learning rate of each step.
      update: the compiled `_update`; it takes the place of what it is given.
    """

    def __init__(self, trained: Trained, placement: Placement, dtype: str, settings: TuneSettings, steps: int) -> None:
        """Prepares them.

        Args:
          trained: what is trained.
          placement: where.
          dtype: that the model runs in.
          settings: how.
          steps: how many steps there will be.
        """
        self._trained, self._placement = trained, placement
        self.dtype, self.devices = dtype, placement.data
        self._compute = replace(placement.compute, keep="nothing" if settings.recompute else "products")
        self.rates = learning_rates(settings, steps)
        clip = [optax.clip_by_global_norm(settings.clip)] if settings.clip else []
        adam = optax.adamw(self.rates, weight_decay=settings.weight_decay, mask=trained.decayed())
        self._optimizer = optax.chain(*clip, adam)
        self._values = trained.specs(placement)
        self._sums: Any = Sums(self._values, P(), P())  # type: ignore[arg-type]
        specs: Any = jax.tree.leaves(param_specs(trained.config))
        self._kept = [P() if placement.axis is None else specs[number] for number in trained.kept]
        self.update = jax.jit(self._update, donate_argnums=0)
        self._gradients: dict[Shape, Callable[..., Any]] = {}
        self._losses: dict[Shape, Callable[..., Any]] = {}

    def begin(self, values: Values) -> Training:
        """The state before the first step, where the values are to lie."""
        values = jax.device_put(values, jax.tree.map(self._sharding, self._values))
        state = optax.tree_utils.tree_map_params(
            self._optimizer,
            lambda _, spec: spec,
            jax.eval_shape(self._optimizer.init, values),
            self._values,
            transform_non_params=lambda _: P(),
        )
        return Training(
            values, jax.jit(self._optimizer.init, out_shardings=jax.tree.map(self._sharding, state))(values)
        )

    def nothing(self) -> Sums:
        """Sums of no batch."""
        shapes = jax.tree.map(lambda spec, shape: (spec, shape), self._values, self._trained.shapes())

        def zeros(pair: tuple[P, tuple[int, ...]]) -> Array:
            return jnp.zeros(pair[1], jnp.float32, device=self._sharding(pair[0]))

        gradient = jax.tree.map(zeros, shapes, is_leaf=lambda one: isinstance(one, tuple) and isinstance(one[0], P))
        return Sums(gradient, *(jnp.zeros((), jnp.float32, device=self._sharding(P())) for _ in range(2)))

    def add(
        self, shape: Shape, kept: list[Array], values: Values, sums: Sums, batches: Batch
    ) -> tuple[Sums, Int32[Array, "data R"]]:
        """Adds the batches of all devices to the sums; also returns the first fault of each text."""
        if shape not in self._gradients:
            self._gradients[shape] = jax.jit(self._sharded(self._gradient, shape, self._sums),
                                             donate_argnums=2)  # fmt: skip
        return self._gradients[shape](kept, values, sums, batches)

    def losses(
        self, shape: Shape, kept: list[Array], values: Values, batches: Batch
    ) -> tuple[Float32[Array, "data R"], Int32[Array, "data R"]]:
        """The summed loss of each text, and its first fault."""
        if shape not in self._losses:
            self._losses[shape] = jax.jit(self._sharded(self._loss, shape, P("data")))
        return self._losses[shape](kept, values, None, batches)

    def _sharding(self, spec: P) -> NamedSharding:
        return NamedSharding(self._placement.mesh, spec)

    def _sharded(self, step: Callable[..., Any], shape: Shape, out: Any) -> Callable[..., Any]:
        def on_each(kept: list[Array], values: Values, sums: Any, batches: Batch) -> Any:
            found, fault = step(shape, kept, values, sums, jax.tree.map(lambda leaf: leaf[0], batches))
            return found, fault[None]

        given = self._sums if isinstance(out, Sums) else None
        return self._placement.shard(on_each, (self._kept, self._values, given, P("data")), (out, P("data")))

    def _forward(
        self, shape: Shape, kept: list[Array], batch: Batch, values: Values
    ) -> tuple[Float[Array, "S"], Int32[Array, "R"]]:
        """The loss of each slot, and the first fault of each text."""
        with jax.default_matmul_precision("highest"):
            params, patches = self._trained.bound(kept, values, self._compute.axis, self.dtype)
            decoder = bind(self._trained.config, params, patches)
            output = decoder(batch, shape, compute=self._compute)
            nll = next_token_nll(decoder, output.hidden, jnp.roll(batch.token, -1), batch.counted)
        ends = jnp.stack([all_finite(output.hidden), jnp.isfinite(nll)])
        return nll, first_fault(jnp.concatenate([output.finite, ends]), batch.row, shape.rows)

    def _gradient(
        self, shape: Shape, kept: list[Array], values: Values, sums: Sums, batch: Batch
    ) -> tuple[Sums, Int32[Array, "R"]]:
        def total(values: Values) -> tuple[Float[Array, ""], Int32[Array, "R"]]:
            nll, fault = self._forward(shape, kept, batch, values)
            return jnp.sum(nll), fault

        (nll, fault), gradient = jax.value_and_grad(total, has_aux=True)(values)
        tokens = jnp.sum(batch.counted.astype(jnp.float32))
        found = jax.lax.psum(Sums(gradient, nll, tokens), "data")
        return jax.tree.map(jnp.add, sums, found), fault

    def _loss(
        self, shape: Shape, kept: list[Array], values: Values, nothing: None, batch: Batch
    ) -> tuple[Float[Array, "1 R"], Int32[Array, "R"]]:
        del nothing
        nll, fault = self._forward(shape, kept, batch, values)
        return jax.ops.segment_sum(nll, batch.row, shape.rows, indices_are_sorted=True)[None], fault

    def _update(self, training: Training, sums: Sums) -> tuple[Training, Taken]:
        gradient = jax.tree.map(lambda one: one / sums.tokens, sums.gradient)
        loss, norm = sums.nll / sums.tokens, global_norm(gradient)
        good = jnp.isfinite(loss) & jnp.isfinite(norm)
        with jax.numpy_dtype_promotion("standard"):  # optax raises a float to a whole number
            updates, state = self._optimizer.update(gradient, training.state, training.values)
        made = Training(optax.apply_updates(training.values, updates), state)
        chosen = jax.tree.map(partial(jnp.where, good), made, training)
        return chosen, Taken(loss, norm, good)


def learning_rates(settings: TuneSettings, steps: int) -> optax.Schedule:
    """The learning rate of each step: it rises to the highest, then falls as the settings say."""
    rising = int(settings.warmup * steps)
    falling = max(steps - rising, 1)
    most = settings.learning_rate
    fall = {
        "cosine": optax.cosine_decay_schedule(most, falling),
        "linear": optax.linear_schedule(most, 0.0, falling),
        "constant": optax.constant_schedule(most),
    }[settings.schedule]
    if rising:
        # The first step is not one of a rate of 0, which would read a batch for nothing.
        rise = optax.linear_schedule(most / (rising + 1), most, rising)
        fall = optax.join_schedules([rise, fall], [rising])
    return lambda step: fall(jnp.asarray(step, jnp.float32))
