"""What an ablation writes: its tables, and its summary.

Axis legend: C categories; of two such axes the first is switched off, the second measured.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.causal.targets import cores_of_a_set
from sparcom_jax.results.files import write_table
from sparcom_jax.results.tables import ABLATION, BASELINE
from sparcom_jax.store.run import Run
from sparcom_jax.units.unit_set import UnitSet


@dataclass(frozen=True)
class Measured:
    """What switching off the units of one target did to the likelihoods.

    Attributes:
      units_off: how many units of each category, and random ones in their place, were switched off.
      nll: mean negative log likelihood; index 0 of the first axis is of the category's units, the others of the draws.
    """

    units_off: Int64[np.ndarray, "C"]
    nll: Float64[np.ndarray, "draws C C"]

    def summary(self, baseline: Float64[np.ndarray, "C"]) -> dict[str, Any]:
        """The units against the draws."""
        delta = self.nll - baseline
        chosen, random = delta[0], delta[1:]
        return {
            "units_off": self.units_off,
            "delta": chosen,
            "random_mean": random.mean(0),
            "random_low": random.min(0),
            "random_high": random.max(0),
            "p_value": (1 + (random >= chosen).sum(0)) / (1 + len(random)),
        }


def write_tables(
    output: Path,
    units: UnitSet,
    texts: TokenizedSet,
    category: UInt8[np.ndarray, "S"],
    baseline: Float64[np.ndarray, "C"],
    measured: Mapping[str, Measured],
) -> None:
    """Writes `ablation.csv` and `baseline.csv`.

    Args:
      output: the directory.
      units: what was switched off.
      texts: what was scored.
      category: of each of them.
      baseline: likelihoods with nothing switched off.
      measured: by target, the likelihoods with units switched off.
    """
    sizes = np.bincount(category, minlength=len(units.categories)).tolist()
    rows = (row for target, one in measured.items() for row in _rows(target, one, units, sizes, baseline))
    write_table(output, ABLATION, rows)
    tokens = [int(texts.counted[category == index].sum()) for index in range(len(units.categories))]
    write_table(output, BASELINE, zip(units.categories, sizes, tokens, baseline, strict=True))


def _rows(target: str, measured: Measured, units: UnitSet, sizes: list[int], baseline: np.ndarray
          ) -> Iterator[tuple[object, ...]]:  # fmt: skip
    """Rows of `ablation.csv`: by category off, draw and category measured."""
    for off, name in enumerate(units.categories):
        for draw, nll in enumerate(measured.nll[:, off]):
            what = (target, "random" if draw else units.selector, draw or "", name)
            for index, other in enumerate(units.categories):
                yield *what, other, int(measured.units_off[off]), sizes[index], nll[index], nll[index] - baseline[index]


def origin_summary(run: Run, units: UnitSet) -> dict[str, Any]:
    """What the summary says of the units: the set whose cores they are, or where they come from.

    Args:
      run: the run that they were chosen by.
      units: the units.
    """
    if cores_of_a_set(units):
        return {"set": units.origin["set"]}
    return {"units": {"run": run.address, **units.record()}}
