"""One sweep: texts in batches, through a compiled step, to results by text.

Capture, generation, likelihood and verification are sweeps. Whoever calls writes down what comes, and can go on where
it stopped: a sweep keeps nothing.
"""

import collections
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Int32

from sparcom_jax.batches.packing import Bin, Feed
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.placement import Step
from sparcom_jax.models.batch import Shape
from sparcom_jax.models.faults import require_finite
from sparcom_jax.progress import compiling

DTYPE_FLAG = "--config.execution.dtype"

_called: "weakref.WeakSet[Step]" = weakref.WeakSet()
"""Steps that have been called: the first call compiles them."""
_of_called = threading.Lock()


class BinResults(NamedTuple):
    """What a step has made of the texts of one bin.

    Attributes:
      texts: which texts these are, in the order of the rows of the batch, which can hold more.
      values: what the step returns, as one device does: arrays of NumPy.
      fault: the first point of each row at which its numbers are not finite (`models/faults.py`).
    """

    texts: tuple[int, ...]
    values: Any
    fault: Int32[np.ndarray, "R"]


def sweep(
    model: PlacedModel, feeds: Iterable[Feed], step: Callable[[Shape], Step], extra: Any = None
) -> Iterator[BinResults]:
    """Runs batches through a model; while the results of one are taken, the next ones are computed.

    Args:
      model: the model on its devices.
      feeds: from `feeds`; they are made as they are needed.
      step: gives the compiled step of a shape: a function of (params, batches, extra) that returns (values, fault),
        each leaf of values with a leading axis of devices, and faults `[devices, R]` or, where several devices share a
        batch and each sees its own part, `[devices, model, R]`.
      extra: what the step takes beside the batches, on the devices.

    Yields:
      What came of each bin, in the order of the feeds.
    """
    running: collections.deque[tuple[Bin, ...]] = collections.deque()

    def calls() -> Iterator[Callable[[], Any]]:
        for feed in feeds:
            running.append(feed.bins)
            yield partial(_call, step(feed.shape), model.params, feed.batch, extra)

    for values, fault in model.placement.run_ahead(calls()):
        bins = running.popleft()
        values = jax.tree.map(np.asarray, values)
        faults = np.asarray(fault).reshape(len(fault), -1, bins[0].shape.rows).min(axis=1)
        for device, one in enumerate(bins):
            yield BinResults(one.texts, jax.tree.map(lambda leaf, at=device: leaf[at], values), faults[device])


def _call(step: Step, *arguments: Any) -> Any:
    """Calls a step; the first time it is compiled, which whatever progress is shown is told."""
    with _of_called:
        first = step not in _called
        _called.add(step)
    if not first:
        return step(*arguments)
    with compiling():
        return step(*arguments)


def finite_sweep(
    model: PlacedModel,
    feeds: Iterable[Feed],
    step: Callable[[Shape], Step],
    names: Sequence[str],
    extra: Any = None,
    when: str = "",
) -> Iterator[BinResults]:
    """The same, and refuses texts with numbers that are not finite.

    Args:
      model: as in `sweep`.
      feeds: as in `sweep`.
      step: as in `sweep`.
      names: what the texts are called.
      extra: as in `sweep`.
      when: what was done to the model, for the message.

    Raises:
      InputError: it names the texts, the layer of each, and what to try.
    """
    for found in sweep(model, feeds, step, extra):
        require_finite(found.fault, found.texts, names, model.config.num_layers, model.params, DTYPE_FLAG, when)
        yield found
