"""All groups as one row of units, and back: where units of several groups are ranked together."""

from collections.abc import Mapping

import numpy as np


def flat(by_group: Mapping[str, np.ndarray]) -> np.ndarray:
    """The values `[C, *units]` of some groups side by side, `[C, U]`."""
    return np.concatenate([values.reshape(len(values), -1) for values in by_group.values()], axis=1)


def by_group(values: np.ndarray, like: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Takes `flat` apart.

    Args:
      values: `[C, U]`.
      like: groups, in the same order, with arrays of the shapes to be had.
    """
    ends = np.cumsum([one[0].size for one in like.values()])[:-1]
    parts = np.split(values, ends, axis=1)
    return {name: part.reshape(one.shape) for (name, one), part in zip(like.items(), parts, strict=True)}
