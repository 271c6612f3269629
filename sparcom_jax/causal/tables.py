"""What an ablation writes: its tables, and its summary."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from sparcom_jax.causal.effects import Effects, Sufficiency, others
from sparcom_jax.causal.measure import Key
from sparcom_jax.causal.texts import Scored
from sparcom_jax.results.ablation import (
    ABLATION,
    BASELINE,
    DOSES,
    EFFECTS,
    INSTRUCTION_EFFECTS,
    SELECTIVITY,
    SUFFICIENCY,
)
from sparcom_jax.results.files import write_table
from sparcom_jax.units.unit_set import UnitSet

Rows = Iterator[Sequence[object]]


def write_tables(output: Path, units: UnitSet, scored: Scored, effects: Mapping[Key, Effects]) -> None:
    """Writes the tables of an ablation.

    Args:
      output: the directory.
      units: what was switched off.
      scored: what was measured.
      effects: by target and dose; None is no dose, but all units of the target.
    """
    whole = {target: one for (target, dose), one in effects.items() if dose is None}
    doses = [(target, one) for (target, dose), one in effects.items() if dose is not None]
    for table, rows, of in ((ABLATION, _draws, whole.items()), (EFFECTS, _effects, whole.items()),
                            (SELECTIVITY, _selectivity, whole.items()), (DOSES, _selectivity, doses),
                            (SUFFICIENCY, _sufficiency, [*whole.items(), *doses]),
                            (INSTRUCTION_EFFECTS, _instructions, whole.items())):  # fmt: skip
        write_table(output, table, (row for target, one in of for row in rows(target, one, units, scored)))
    write_table(output, BASELINE, _baseline(next(iter(effects.values())), units, scored))


def _draws(target: str, effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    """Rows of `ABLATION`."""
    kinds = {units.selector: effects.delta[None], **{kind: one.delta for kind, one in effects.against.items()}}
    for off, name in enumerate(units.categories):
        for kind, deltas in kinds.items():
            for draw, delta in enumerate(deltas[:, off], 1):
                for index, other in enumerate(units.categories):
                    yield (target, kind, "" if kind == units.selector else draw, name, other,
                           effects.measured.units_off[off], scored.sizes[index], scored.held_out,
                           effects.baseline_means[index] + delta[index], delta[index])  # fmt: skip


def _effects(target: str, effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    low, high = effects.delta_interval
    for off, index in np.ndindex(effects.delta.shape):
        cell = off, index
        yield (target, units.categories[off], units.categories[index], effects.measured.units_off[off],
               scored.sizes[index], scored.held_out, effects.delta[cell], low[cell], high[cell],
               *(value for name in ("random", "random_matched")
                 for value in _of_cell(effects, name, off, index)))  # fmt: skip


def _of_cell(effects: Effects, name: str, off: int, index: int) -> Sequence[object]:
    if (one := effects.against.get(name)) is None:
        return [""] * 6
    drawn, cell = one.delta[:, off, index], (off, index)
    return drawn.mean(), drawn.min(), drawn.max(), one.p_value[cell], one.q_value[cell], one.smallest_p


def _selectivity(target: str, effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    (low, high), (apart,) = effects.selectivity_interval, others(effects.delta[None])
    for off, name in enumerate(units.categories):
        count, own = effects.measured.units_off[off], effects.delta[off, off]
        yield (target, name, count, scored.sizes[off], scored.held_out, own, apart[off], effects.selectivity[off],
               low[off], high[off], own / count,
               *(value for name in ("random", "random_matched")
                 for value in _of_category(effects, name, off)))  # fmt: skip


def _of_category(effects: Effects, name: str, off: int) -> Sequence[object]:
    if (one := effects.against.get(name)) is None:
        return [""] * 4
    return one.delta[:, off, off].mean(), one.selectivity[:, off].mean(), one.p_selectivity[off], one.q_selectivity[off]


def _sufficiency(target: str, effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    if (found := effects.sufficiency) is None:
        return
    low, high = found.interval
    for kept, index in np.ndindex(effects.delta.shape):
        cell, untouched = (kept, index), effects.baseline_means[index]
        yield (target, units.categories[kept], units.categories[index], found.units_kept[kept],
               scored.sizes[index], scored.held_out, untouched, untouched + found.harm[cell],
               untouched + effects.delta[cell], found.recovered[cell], low[cell], high[cell],
               *(value for name in ("random", "random_matched")
                 for value in _of_kept(effects, found, name, cell)))  # fmt: skip


def _of_kept(effects: Effects, found: Sufficiency, name: str, cell: tuple[int, int]) -> Sequence[object]:
    if (one := effects.against.get(name)) is None:
        return [""] * 3
    return found.by_chance[name][cell], one.p_value[cell], one.q_value[cell]


def _instructions(target: str, effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    for off, name in enumerate(units.categories):
        values = zip(scored.names, scored.category, scored.texts.counted, effects.measured.nll[off], effects.baseline,
                     strict=True)  # fmt: skip
        for instruction, category, tokens, nll, baseline in values:
            yield (target, name, instruction, units.categories[category], tokens, scored.held_out, nll, nll - baseline)


def _baseline(effects: Effects, units: UnitSet, scored: Scored) -> Rows:
    for index, name in enumerate(units.categories):
        tokens = int(scored.texts.counted[scored.category == index].sum())
        yield name, scored.sizes[index], scored.held_out, tokens, effects.baseline_means[index]
