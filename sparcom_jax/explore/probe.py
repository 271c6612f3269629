"""What chosen units do at every token of some texts.

Axis legend: n chosen units of a group, T tokens of a text.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Float32

from sparcom_jax.batches.packing import feeds, make_plan
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.sweep import finite_sweep
from sparcom_jax.explore.step import Places, probe_step

ByGroup = dict[str, Float32[np.ndarray, "n T"]]


def activations(
    model: PlacedModel,
    texts: TokenizedSet,
    names: Sequence[str],
    places: Mapping[str, Places],
    convention: str,
    batch_tokens: int,
) -> Iterator[tuple[int, ByGroup]]:
    """Reads texts, each once.

    Args:
      model: the model on its devices.
      texts: what is read.
      names: what the texts are called.
      places: where the chosen units are, by group.
      convention: which activation of neurons, as in a capture.
      batch_tokens: token slots of a batch, per device.

    Yields:
      Of each text, in any order, its number and the activations of the units at its tokens, by group; of experts the
      routing weight.

    Raises:
      InputError: what leads to an activation is not finite.
    """
    (bins,) = make_plan(texts.lengths, len(texts.ids), batch_tokens).blocks
    placement = model.placement
    step = partial(probe_step, model.config, convention=convention, placement=placement)
    fed = feeds(texts, bins, placement.data, texts.counting)
    for found in finite_sweep(model, fed, step, names, placement.put(dict(places), P())):
        start = 0
        for text in found.texts:
            stop = start + len(texts.ids[text])
            yield text, {group: values[:, start:stop] for group, values in found.values.items()}
            start = stop
