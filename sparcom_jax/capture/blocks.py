"""The statistics of a block of instructions, on the host."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sparcom_jax.batches.packing import Bin, feeds
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture.step import Kept, capture_step
from sparcom_jax.engine.model import PlacedModel
from sparcom_jax.engine.sweep import finite_sweep


@dataclass(frozen=True)
class Blocks:
    """The statistics of blocks of instructions.

    Attributes:
      model: the model on its devices.
      texts: all that is fed.
      names: what the texts are called.
      kept: what is kept of each.
    """

    model: PlacedModel
    texts: TokenizedSet
    names: Sequence[str]
    kept: Kept

    def statistics(self, bins: Sequence[Bin], rows: slice, advance: Callable[[int], object]) -> dict[str, np.ndarray]:
        """Captures one block.

        Args:
          bins: its batches.
          rows: its instructions.
          advance: told of every batch, how many instructions it has.

        Returns:
          Array name -> `[rows, ...]`.

        Raises:
          InputError: activations of an instruction are not finite.
        """
        placement = self.model.placement
        step = partial(capture_step, self.model.config, kept=self.kept, placement=placement)
        results: dict[str, np.ndarray] = {}
        fed = feeds(self.texts, bins, placement.data, self.texts.counting)
        for found in finite_sweep(self.model, fed, step, self.names):
            at = np.asarray(found.texts, int) - rows.start
            for group, of_group in found.values.items():
                for statistic, values in of_group.items():  # [L, R, ...], or [R] of what all layers have in common
                    by_text = values if values.ndim == 1 else np.moveaxis(values, 1, 0)
                    name = f"{group}/{statistic}"
                    if name not in results:
                        results[name] = np.zeros((rows.stop - rows.start, *by_text.shape[1:]), values.dtype)
                    results[name][at] = by_text[: len(at)]
            advance(len(at))
        return results
