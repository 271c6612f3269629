"""What tuning changed, unit by unit: tables for two models of one architecture over the same instructions.

Axes: I instructions, C categories, L layers, E experts.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, UInt16

from sparcom_jax.analysis import popularity
from sparcom_jax.analysis.depth import jensen_shannon, mean_depth, relative_depth, wasserstein
from sparcom_jax.analysis.drift import frequency_drift, routing_distribution, total_variation
from sparcom_jax.analysis.overlap import expected_of_pairs, jaccard, paired_intersections
from sparcom_jax.analysis.sides import Side
from sparcom_jax.progress import progress
from sparcom_jax.resampling import category_means, interval, one_hot
from sparcom_jax.results.tables import INSTRUCTION_OVERLAP
from sparcom_jax.units.groups import EXPERT_GROUP

Rows = Iterator[Sequence[object]]
Weights = UInt16[np.ndarray, "R I C"]


def instruction_overlap(base: Side, tuned: Side) -> Rows:
    """Rows of `INSTRUCTION_OVERLAP`: how much of S(i) of the base model is in S(i) of the tuned one."""
    run = base.run
    for name, group in base.sets.groups.items():
        found = paired_intersections(base.sets, tuned.sets, name)
        sizes = found.first.sum(axis=1), found.second.sum(axis=1)
        chance = jaccard(expected_of_pairs(found, group.unit_count // len(group.layers)), *sizes)
        by_layer = found.first, found.second
        popular = jaccard(popularity.expected_of_pairs(base.sets, tuned.sets, name, by_layer), *sizes)
        columns = (*sizes, found.common, jaccard(found.common, *sizes), chance, popular)
        for entry, c, tokens, *values in zip(run.instructions, run.category, run.token_count, *columns, strict=True):
            yield name, entry["id"], run.categories[c], tokens, *values


def category_overlap(base: Side, rows: Sequence[Sequence[object]], resampled: Weights) -> Rows:
    """Rows of `CATEGORY_OVERLAP`: the mean of `instruction_overlap` over each category.

    Args:
      base: the base model.
      rows: those of `instruction_overlap`.
      resampled: bootstrap samples of the instructions.
    """
    at = INSTRUCTION_OVERLAP.names.index("jaccard")
    for name in base.sets.groups:
        values = np.array([row[at : at + 3] for row in rows if row[0] == name], np.float64)
        means, low, high = _means(base, values, resampled)
        for c, (category, members) in enumerate(zip(base.run.categories, base.sets.category_sizes, strict=True)):
            yield name, category, members, means[c, 0], low[c, 0], high[c, 0], *means[c, 1:]


def units(base: Side, tuned: Side) -> Rows:
    """Rows of `UNITS`: core units of either model, and those that it kept, gained and lost."""
    for name, group in base.sets.groups.items():
        depth = relative_depth(base.run, group)
        before, after = base.core[name], tuned.core[name]
        parts = (before, after, before & after, after & ~before, before & ~after)
        counts = np.stack([part.sum(axis=2) for part in parts], axis=2)
        for c, category in enumerate(base.run.categories):
            for at, layer in enumerate(group.layers):
                yield name, category, layer, depth[at], *counts[c, at]


def depth_shift(base: Side, tuned: Side) -> Rows:
    """Rows of `DEPTH_SHIFT`: how far the core units, and the sets S(i) on average, moved through the layers."""
    for name, group in base.sets.groups.items():
        depth = relative_depth(base.run, group)
        quantities = {"core_units": (base.core[name].sum(axis=2), tuned.core[name].sum(axis=2)),
                      "set_size": (base.set_size[name], tuned.set_size[name])}  # fmt: skip
        for quantity, (before, after) in quantities.items():
            for category, p, q in zip(base.run.categories, before, after, strict=True):
                yield (name, category, quantity, mean_depth(p, depth), mean_depth(q, depth),
                       wasserstein(p, q, depth), jensen_shannon(p, q))  # fmt: skip


def frequency_change(base: Side, tuned: Side, resampled: Weights) -> Rows:
    """Rows of `FREQUENCY_DRIFT`: how far p moved, by category and layer.

    Args:
      base: one model.
      tuned: the other.
      resampled: bootstrap samples of the instructions.
    """
    for name, group in base.run.groups.items():
        if name == EXPERT_GROUP:
            continue
        with progress(f"drift {name}", len(group.layers), "layers") as bar:
            size, change = frequency_drift(base.run, tuned.run, name, bar.advance)
        depth = relative_depth(base.run, group)
        means, low, high = _means(base, size, resampled)
        signed, _, _ = _means(base, change, resampled[:1])
        for c, category in enumerate(base.run.categories):
            for at, layer in enumerate(group.layers):
                yield name, category, layer, depth[at], means[c, at], low[c, at], high[c, at], signed[c, at]


def routing_change(base: Side, tuned: Side, resampled: Weights) -> Rows:
    """Rows of `ROUTING_DRIFT`: how far the shares of the experts moved, by category and layer.

    Args:
      base: one model with routed experts.
      tuned: the other.
      resampled: bootstrap samples of the instructions.
    """
    group = base.run.groups[EXPERT_GROUP]
    depth = relative_depth(base.run, group)
    shares = routing_distribution(base.run), routing_distribution(tuned.run)
    means, low, high = _means(base, total_variation(*shares), resampled)
    typical = [_means(base, part.reshape(len(part), -1).astype(np.float64), resampled[:1])[0] for part in shares]
    of_mean = total_variation(*(part.reshape(-1, *group.shape).astype(np.float32) for part in typical))
    for c, category in enumerate(base.run.categories):
        for at, layer in enumerate(group.layers):
            yield category, layer, depth[at], means[c, at], low[c, at], high[c, at], of_mean[c, at]


def _means(side: Side, values: Float64[np.ndarray, "I K"], resampled: Weights
           ) -> tuple[Float64[np.ndarray, "C K"], Float64[np.ndarray, "C K"], Float64[np.ndarray, "C K"]]:  # fmt: skip
    observed = one_hot(side.run.category[None], len(side.run.categories))
    return category_means(values, observed)[0], *interval(category_means(values, resampled))
