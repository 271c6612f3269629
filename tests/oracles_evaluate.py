"""What evaluate and compare compute, once more: plain Python sets and loops, slow and obviously right."""

import itertools
import math
from collections import Counter
from fractions import Fraction

import numpy as np

Unit = tuple[int, ...]


def unit_sets(mask: np.ndarray) -> list[set[Unit]]:
    """S(i) as Python sets of (layer, ...) from a boolean mask [I, L, ...]."""
    return [{tuple(int(x) for x in unit) for unit in np.argwhere(row)} for row in mask]


def jaccard(a: float, b: float, common: float) -> float:
    return common / (a + b - common) if a + b - common > 0 else 0.0


def overlap_coefficient(a: float, b: float, common: float) -> float:
    return common / min(a, b) if min(a, b) > 0 else 0.0


MEASURES = {"jaccard": jaccard, "overlap_coefficient": overlap_coefficient}


def overlap(measure: str, a: set[Unit], b: set[Unit]) -> float:
    return MEASURES[measure](len(a), len(b), len(a & b))


def expected_common(a: set[Unit], b: set[Unit], layers: int, layer_units: int) -> float:
    """Mean size of the intersection when b's units are redrawn within their layer."""
    total = 0.0
    for layer in range(layers):
        in_a, in_b = (sum(unit[0] == layer for unit in s) for s in (a, b))
        total += in_a * in_b / layer_units
    return total


def chance(measure: str, a: set[Unit], b: set[Unit], layers: int, layer_units: int) -> float:
    return MEASURES[measure](len(a), len(b), expected_common(a, b, layers, layer_units))


def mean_common_of_all_subsets(units: int, first: int, second: int) -> float:
    """Mean size of the intersection of a fixed subset with every subset of a size."""
    fixed = set(range(first))
    sizes = [len(fixed & set(subset)) for subset in itertools.combinations(range(units), second)]
    return sum(sizes) / len(sizes)


def cell_mean(values: np.ndarray, first: list[int], second: list[int], within: bool) -> float:
    """Mean over the pairs of two different instructions; the lists may hold an instruction several times."""
    pairs = itertools.combinations(first, 2) if within else itertools.product(first, second)
    kept = [values[i, j] for i, j in pairs if i != j]
    return sum(kept) / len(kept) if kept else math.nan


def cell_table(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The category table of one draw with weights [I, C]."""
    categories = weights.shape[1]
    drawn = [[i for i, n in enumerate(weights[:, c]) for _ in range(n)] for c in range(categories)]
    return np.array([[cell_mean(values, drawn[a], drawn[b], a == b) for b in range(categories)]
                     for a in range(categories)])  # fmt: skip


def two_sided_p(observed: float, draws: list[float]) -> float:
    above = sum(x >= observed - 1e-12 for x in draws)
    below = sum(x <= observed + 1e-12 for x in draws)
    return min(1.0, 2 * min((1 + above) / (1 + len(draws)), (1 + below) / (1 + len(draws))))


def q_values(p: list[float]) -> list[float]:
    """The smallest rate at which Benjamini and Hochberg's procedure rejects each hypothesis."""
    count = len(p)
    rates = {q: count * q / sum(x <= q for x in p) for q in p}
    return [min(1.0, *(rate for q, rate in rates.items() if q >= x)) for x in p]


def cores(sets: list[set[Unit]], drawn: list[list[int]], rho: float) -> list[set[Unit]]:
    """Core set of each category, given the instructions drawn for it (repeated ones count as often)."""
    result = []
    for rows in drawn:
        held = Counter(unit for i in rows for unit in sets[i])
        result.append({unit for unit, m in held.items() if Fraction(m) >= Fraction(str(rho)) * len(rows)})
    return result


def unique(core: list[set[Unit]]) -> list[set[Unit]]:
    return [mine - set().union(*core[:c], *core[c + 1 :]) for c, mine in enumerate(core)]


def combinations(core: list[set[Unit]]) -> dict[tuple[int, ...], int]:
    """Units by the exact combination of cores that hold them; all combinations."""
    everything = set().union(*core)
    orders = range(1, len(core) + 1)
    counts = {chosen: 0 for n in orders for chosen in itertools.combinations(range(len(core)), n)}
    for unit in everything:
        counts[tuple(c for c, mine in enumerate(core) if unit in mine)] += 1
    return counts


def wasserstein(p: np.ndarray, q: np.ndarray, depth: np.ndarray) -> float:
    """Area between the two cumulative distributions."""
    p, q = p / p.sum(), q / q.sum()
    return sum(abs(p[: k + 1].sum() - q[: k + 1].sum()) * (depth[k + 1] - depth[k]) for k in range(len(depth) - 1))


def entropy_bits(p: np.ndarray) -> float:
    return -sum(x * math.log2(x) for x in p if x > 0)


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> float:
    """Entropy of the mixture less the mean entropy."""
    p, q = p / p.sum(), q / q.sum()
    return entropy_bits((p + q) / 2) - (entropy_bits(p) + entropy_bits(q)) / 2


def ranks(values: list[float]) -> list[float]:
    """Mean rank of equal values."""
    return [sum(y < x for y in values) + (sum(y == x for y in values) + 1) / 2 for x in values]


def pearson(x: list[float], y: list[float]) -> float:
    return float(np.corrcoef(x, y)[0, 1])
