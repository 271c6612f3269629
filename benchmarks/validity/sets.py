"""What S(i) and the statistics of sets can and cannot, each beside the method that it took the place of."""

import argparse
import itertools
from collections.abc import Callable

import numpy as np

from benchmarks import print_table
from benchmarks.validity.made_up import draw_counts, draw_probability, lengths_apart, lengths_of_hexainst, plant
from sparcom_jax.analysis.contrasts import contrast, shuffle_pairs
from sparcom_jax.analysis.cores import half_interval
from sparcom_jax.analysis.correlation import correlate_tables, spearman
from sparcom_jax.identify.score import cut_count, cut_excess, excess, reaching
from sparcom_jax.resampling import (
    STRATUM_ROWS,
    Shuffling,
    bootstrap_weights,
    cell_means,
    half_weights,
    interval,
    length_strata,
    one_hot,
    one_sided_p,
    shuffle_labels,
    two_sided_p,
)
from sparcom_jax.select.cores import in_one_core
from sparcom_jax.store.sets import required_members

EPSILON, RHO, THRESHOLD = 0.05, 0.5, 0.5
SHUFFLES = 199


def sets_of(counts: np.ndarray, labels: np.ndarray, tokens: np.ndarray, selector: str) -> np.ndarray:
    """S(i) of every instruction, `[I, U]`, by a selector of `identify`."""
    p, wanted = counts / tokens[:, None], int(np.ceil(EPSILON * counts.shape[1]))
    if selector == "threshold":
        return p >= THRESHOLD
    rate = np.mean([p[labels == category].mean(axis=0) for category in np.unique(labels)], axis=0)
    masks = []
    for count, of in zip(counts, tokens, strict=True):
        scores = excess(count, rate, int(of)) if selector == "excess" else count
        masks.append(reaching(scores, (cut_excess if selector == "excess" else cut_count)([scores], wanted)))
    return np.stack(masks)


def jaccard_of(held: np.ndarray) -> np.ndarray:
    """Overlap of all pairs."""
    common = held.astype(np.float32) @ held.T.astype(np.float32)
    sizes = held.sum(axis=1)
    return (common / np.maximum(sizes[:, None] + sizes - common, 1)).astype(np.float64)


def core_of(held: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Cores `[C, U]` of instructions weighted `[I, C]`."""
    required = required_members(weights.sum(axis=0, dtype=np.int64), RHO)
    return weights.T.astype(np.float32) @ held.astype(np.float32) >= required[:, None]


def unique_share(core: np.ndarray) -> np.ndarray:
    """Uniqueness of every category."""
    return in_one_core(core).sum(axis=1) / np.maximum(core.sum(axis=1), 1)


def explained(values: np.ndarray, predictors: np.ndarray) -> float:
    """R2 of a linear model."""
    weights = np.linalg.lstsq(predictors @ predictors.T, predictors @ values, rcond=None)[0]
    rest = values - weights @ predictors
    return 1 - float(rest @ rest) / float(((values - values.mean()) ** 2).sum())


def selection(args: argparse.Namespace) -> None:
    """Prints whether the units that are unique to a category's core are the planted ones, and what S(i) follows."""
    labels, tokens = lengths_of_hexainst()
    rows = []
    for selector in ("excess", "frequency", "threshold"):
        figures = []
        for replicate in range(args.replicates):
            random = np.random.default_rng([args.seed, replicate, 2])
            counts = draw_counts(random, draw_probability(random, tokens, args.units, by_length=True), tokens)
            planted = plant(random, counts, labels, tokens, args.planted)
            held = sets_of(counts, labels, tokens, selector)
            unique = in_one_core(core_of(held, one_hot(labels.astype(np.uint8)[None], len(planted))[0]))
            right = (unique & planted).sum()
            first, second = np.triu_indices(len(labels), k=1)
            values, length = jaccard_of(held)[first, second], np.log(tokens)
            cells = labels[first] * len(planted) + labels[second]
            means = np.bincount(cells, values) / np.maximum(np.bincount(cells), 1)
            by_length = np.stack([np.ones(len(values)), length[first] + length[second],
                                  np.abs(length[first] - length[second])])  # fmt: skip
            by_category = np.stack([np.ones(len(values)), means[cells]])
            figures.append((right / max(unique.sum(), 1), right / planted.sum(),
                            spearman(held.sum(axis=1), tokens),
                            explained(values, by_category), explained(values, by_length)))  # fmt: skip
        rows.append((selector, *("" if np.isnan(value) else f"{value:.2f}" for value in np.mean(figures, axis=0))))
    print(f"\nUnits that are unique to a core, {args.planted} of {args.units:,} planted for each category")
    print_table(("S(i) by", "precision", "recall", "Spearman of |S(i)| and T", "R2 of overlap by category",
                 "R2 by length"), rows)  # fmt: skip


def _small(args: argparse.Namespace, replicate: int, part: int, lengths: str
           ) -> tuple[np.random.Generator, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """A smaller run without category effects: six categories of 60 instructions; its probabilities."""
    random = np.random.default_rng([args.seed, replicate, part])
    labels = np.repeat(np.arange(6), 60)
    tokens = lengths_apart(random, labels) if lengths == "apart" else random.integers(20, 120, len(labels))
    probability = draw_probability(random, tokens, args.units // 4, by_length=True)
    return random, labels, tokens, probability


def cells(args: argparse.Namespace) -> None:
    """Prints how often pairs of categories that do not differ come out, with and without a category that does."""
    rows = []
    for lengths, planted in itertools.product(("alike", "apart"), (0, args.planted)):
        before, after, coarse, real = [], [], [], []
        for replicate in range(10 * args.replicates):
            random, labels, tokens, probability = _small(args, replicate, 3, lengths)
            counts = draw_counts(random, probability, tokens)
            if planted:
                others = counts.copy()
                plant(random, counts, labels, tokens, planted)
                counts[labels != 5] = others[labels != 5]
            values = jaccard_of(sets_of(counts, labels, tokens, "excess"))
            small = labels.astype(np.uint8)
            shuffled = shuffle_labels(small, length_strata(tokens, len(tokens) // 5), SHUFFLES, random)
            observed = cell_means(values, one_hot(small[None], 6))[0]
            p_value = two_sided_p(observed, cell_means(values, one_hot(shuffled, 6)))
            before += [p_value[a, b] for a, b in itertools.combinations_with_replacement(range(5), 2)]
            for stratum_rows, into in ((STRATUM_ROWS, after), (24, coarse)):
                for pair in shuffle_pairs(small, tokens, 6, Shuffling(SHUFFLES, stratum_rows, replicate)):
                    found = contrast(values, pair, np.zeros((1, 6, 6))).p_value
                    if 5 not in pair.pair:
                        into.append(found)
                    elif stratum_rows == STRATUM_ROWS:
                        real.append(found)
        shares = (np.mean(np.asarray(of) < 0.05) for of in (before, coarse, after, real))
        rows.append((lengths, "one" if planted else "none", *(f"{share:.1%}" for share in shares)))
    print("\nPairs of categories that do not differ: p < 0.05 (last column: pairs with the one that does)")
    print_table(("lengths", "real category", "cells, all labels shuffled", "contrasts, strata of a fifth", "contrasts",
                 "contrasts with the real one"), rows)  # fmt: skip


def mantel(first: np.ndarray, second: np.ndarray) -> float:
    """One-sided p-value of a Mantel test, all relabellings tried."""
    upper = np.triu_indices(len(first))

    def correlation(order: tuple[int, ...]) -> float:
        return float(np.corrcoef(first[upper], second[np.ix_(order, order)][upper])[0, 1])

    orders = list(itertools.permutations(range(len(first))))
    observed = correlation(orders[0])
    return sum(correlation(order) >= observed - 1e-12 for order in orders) / len(orders)


def two_models(args: argparse.Namespace) -> None:
    """Prints how often two unrelated models without category effects seem to agree."""
    rows = []
    for lengths in ("alike", "apart"):
        before, after, value, null = [], [], [], []
        for replicate in range(10 * args.replicates):
            random, labels, tokens, one = _small(args, replicate, 4, lengths)
            other = draw_probability(random, tokens, args.units // 4, by_length=True)
            values = [jaccard_of(sets_of(draw_counts(random, of, tokens), labels, tokens, "frequency"))
                      for of in (one, other)]  # fmt: skip
            small = labels.astype(np.uint8)
            shuffled = shuffle_labels(small, length_strata(tokens, STRATUM_ROWS), SHUFFLES, random)
            tables = [cell_means(of, one_hot(np.concatenate([small[None], shuffled]), 6)) for of in values]
            found = correlate_tables(tables[0], tables[1], diagonal=True)
            before.append(mantel(tables[0][0], tables[1][0]))
            after.append(found.p_value["pearson"])
            value.append(found.value["pearson"])
            null.append(found.null["pearson"])
        rows.append((lengths, f"{np.mean(value):.2f}", f"{np.mean(null):.2f}",
                     *(f"{np.mean(np.asarray(of) < 0.05):.0%}" for of in (before, after))))  # fmt: skip
    print("\nTables of two unrelated models without category effects: p < 0.05")
    print_table(("lengths", "correlation", "median shuffled", "Mantel", "labels shuffled jointly"), rows)


def uniqueness_intervals(args: argparse.Namespace) -> None:
    """Prints how often intervals of uniqueness hold the mean over new instructions, and how often null p are small."""
    rows = []
    for size in (10, 30, 100):
        found: dict[str, list[np.ndarray]] = {name: [] for name in ("boot", "half", "boot_off", "half_off", "p2", "p1")}
        for replicate in range(3 * args.replicates):
            random = np.random.default_rng([args.seed, replicate, 5])
            labels = np.repeat(np.arange(6), size).astype(np.uint8)
            base = random.normal(-2.5, 2.5, args.units // 2) + random.normal(0, 0.5, (6, args.units // 2))
            truth_of = 1 / (1 + np.exp(-base - 2.0 * (random.random(base.shape) < 0.02)))
            observed = one_hot(labels[None], 6)[0]

            def measure(weights: np.ndarray, held: np.ndarray) -> np.ndarray:
                return np.stack([unique_share(core_of(held, draw)) for draw in weights])

            def count(weights: np.ndarray, held: np.ndarray) -> np.ndarray:
                return np.stack([in_one_core(core_of(held, draw)).sum(axis=1) for draw in weights]).astype(float)

            held = random.random((len(labels), base.shape[1])) < truth_of[labels]
            value = unique_share(core_of(held, observed))
            members = required_members(np.full(6, size), RHO)[:, None]
            truth = np.mean([unique_share(random.binomial(size, truth_of) >= members) for _ in range(100)], axis=0)
            boot = interval(measure(bootstrap_weights(labels, 6, SHUFFLES, random), held))
            halves = measure(half_weights(labels, 6, SHUFFLES, random), held)
            half = half_interval(value, halves, np.full(6, size))
            for name, (low, high) in (("boot", boot), ("half", half)):
                found[name].append((low <= truth) & (truth <= high))
                found[f"{name}_off"].append((low + high) / 2 - truth)
            null = random.random(held.shape) < truth_of[0]
            shuffled = shuffle_labels(labels, np.zeros(len(labels), int), SHUFFLES, random)
            value, draws = unique_share(core_of(null, observed)), measure(one_hot(shuffled, 6), null)
            found["p2"].append(two_sided_p(value, draws) < 0.05)
            found["p1"].append(one_sided_p(count(observed[None], null)[0], count(one_hot(shuffled, 6), null)) < 0.05)
        mean = {name: float(np.mean(of)) for name, of in found.items()}
        rows.append((size, f"{mean['boot']:.0%}", f"{mean['boot_off']:+.4f}", f"{mean['half']:.0%}",
                     f"{mean['half_off']:+.4f}", f"{mean['p2']:.1%}", f"{mean['p1']:.1%}"))  # fmt: skip
    print("\nUniqueness: intervals (95%) that hold the truth, how far their middle is off; null p < 0.05")
    print_table(("instructions a category", "bootstrap", "middle", "halves", "middle", "p of the share, two-sided",
                 "p of the number, one-sided"),
                rows)  # fmt: skip


def controls(args: argparse.Namespace) -> None:
    """Prints how often a core that is a random part of a layer seems to matter, by where random units come from."""
    rows = []
    draw: dict[str, Callable[[np.random.Generator, np.ndarray, int], np.ndarray]] = {
        "outside the core": lambda random, core, units: random.choice(
            np.setdiff1d(np.arange(units), core), min(len(core), units - len(core)), replace=False
        ),
        "all units": lambda random, core, units: random.choice(units, len(core), replace=False),
    }
    units, draws = 400, 39
    for share in (0.05, 0.35, 0.5):
        figures = []
        for choose in draw.values():
            small = []
            for replicate in range(200 * args.replicates):
                random = np.random.default_rng([args.seed, replicate, 6])
                weight = random.lognormal(0, 1.5, units)
                core = random.choice(units, int(share * units), replace=False)
                effects = np.array([weight[choose(random, core, units)].sum() for _ in range(draws)])
                small.append(float(two_sided_p(np.array([weight[core].sum()]), effects[:, None])[0]) <= 0.05)
            figures.append(f"{np.mean(small):.1%}")
        rows.append((f"{share:.0%}", *figures))
    print("\nA core that is a random part of a layer: p of its effect <= 0.05, by where the random units come from")
    print_table(("part of the layer", *draw), rows)
