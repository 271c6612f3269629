"""What the selectors of category units can and cannot: recovery of planted units, false positives where there are none.

python -m benchmarks.validity [--units=6000] [--planted=30] [--replicates=3] [--seed=0]

Made-up counts: every unit has a rate of its own, from which instructions deviate. Lengths are alike, or those of the
shipped set, or the categories' own (`apart`); where they are not alike, half of the units are more active in longer
instructions, whatever the category. Planted: in the instructions of a category, its units are switched on at 60% of the
tokens at which they were silent.
"""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, stdtr

from benchmarks import print_table
from sparcom_jax.instructions.rows import load_hexainst
from sparcom_jax.resampling import benjamini_hochberg
from sparcom_jax.select.auroc import auroc
from sparcom_jax.select.average_precision import average_precision
from sparcom_jax.select.difference import difference
from sparcom_jax.select.lape import activation_probability, lape
from sparcom_jax.select.sample import Sample

SWITCHED_ON = 0.6
Q = 0.05
TOKENS_PER_WORD = 4 / 3


def lengths_of_hexainst() -> tuple[np.ndarray, np.ndarray]:
    """Category and about how many tokens every instruction of the shipped set has."""
    data = load_hexainst()
    tokens = [round(TOKENS_PER_WORD * len(row["instruction"].split())) + 1 for row in data.rows]
    return np.asarray(data.category_index()), np.asarray(tokens)


def draw_probability(random: np.random.Generator, tokens: np.ndarray, units: int, *, by_length: bool) -> np.ndarray:
    """How often each unit is active in each instruction, `[I, U]`: on the logit scale its own rate, and noise."""
    logit = random.normal(-1.0, 2.0, units) + random.normal(0.0, 0.7, (len(tokens), units))
    if by_length:
        standing = (np.log(tokens) - np.log(tokens).mean()) / np.log(tokens).std()
        logit[:, ::2] += 0.7 * standing[:, None]
    return 1 / (1 + np.exp(-logit))


def draw_counts(random: np.random.Generator, probability: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Counts of tokens at which each unit is active."""
    return random.binomial(tokens[:, None], probability).astype(np.uint16)


def plant(random: np.random.Generator, counts: np.ndarray, labels: np.ndarray, tokens: np.ndarray, planted: int
          ) -> np.ndarray:  # fmt: skip
    """Switches units on in the instructions of each category; gives which they are, `[C, U]`."""
    categories = labels.max() + 1
    chosen = np.zeros((categories, counts.shape[1]), bool)
    order = random.permutation(counts.shape[1])
    for category in range(categories):
        units = order[category * planted : (category + 1) * planted]
        chosen[category, units] = True
        rows = np.flatnonzero(labels == category)
        silent = tokens[rows, None] - counts[np.ix_(rows, units)].astype(int)
        counts[np.ix_(rows, units)] += random.binomial(silent, SWITCHED_ON).astype(np.uint16)
    return chosen


def score_auroc(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """AUROC, and its p-values."""
    score, z = auroc(counts, sample)
    return score, ndtr(-z.astype(np.float64))


def score_difference(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """Difference of means, and its p-values."""
    score, t, freedom = difference(counts, sample).astype(np.float64)
    return score, stdtr(freedom, -t)


def score_average_precision(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """Average precision."""
    return average_precision(counts, sample)[0], None


def score_lape(counts: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray | None]:
    """LAPE."""
    return lape({"mlp": activation_probability(counts, sample)[0]})[0]["mlp"], None


SELECTORS: dict[str, Callable[[np.ndarray, Sample], tuple[np.ndarray, np.ndarray | None]]] = {
    "auroc": score_auroc,
    "average_precision": score_average_precision,
    "difference": score_difference,
    "lape": score_lape,
}


def highest(score: np.ndarray, size: int) -> np.ndarray:
    """The `size` units of the highest score of each category."""
    mask = np.zeros(score.shape, bool)
    np.put_along_axis(mask, np.argsort(-score, axis=1, kind="stable")[:, :size], values=True, axis=1)
    return mask


def recovery(args: argparse.Namespace) -> None:
    """Prints how many of the planted units each selector finds."""
    labels, tokens = lengths_of_hexainst()
    rows = []
    for name, measure in SELECTORS.items():
        for control in (True, False) if name != "lape" else (False,):
            sample = Sample(np.arange(len(labels)), labels, tokens, labels.max() + 1, control)
            by_size, by_q = [], []
            for replicate in range(args.replicates):
                random = np.random.default_rng([args.seed, replicate])
                probability = draw_probability(random, tokens, args.units, by_length=True)
                counts = draw_counts(random, probability, tokens)
                planted = plant(random, counts, labels, tokens, args.planted)
                score, p_value = measure(counts, sample)
                by_size.append((highest(score, args.planted) & planted).sum() / planted.sum())
                if p_value is not None:
                    found = (benjamini_hochberg(p_value.reshape(-1)) <= Q).reshape(p_value.shape)
                    right = (found & planted).sum()
                    by_q.append((right / max(found.sum(), 1), right / planted.sum()))
            precision, recall = np.mean(by_q, axis=0) if by_q else (np.nan, np.nan)
            rows.append((name, "yes" if control else "no", f"{np.mean(by_size):.2f}",
                         f"{precision:.2f}", f"{recall:.2f}"))  # fmt: skip
    print(f"\n{args.planted} of {args.units:,} units planted for each category")
    columns = ("selector", "length controlled", f"precision at {args.planted}", f"precision, q {Q}", f"recall, q {Q}")
    print_table(columns, rows)


def false_positives(args: argparse.Namespace) -> None:
    """Prints how often selectors with p-values find units where none belongs to a category."""
    labels, tokens = lengths_of_hexainst()
    apart = np.random.default_rng(args.seed).lognormal(np.log(30 * 1.4**labels), 0.5).astype(int) + 5
    lengths = {"alike": np.full(len(tokens), int(np.median(tokens))), "of hexainst": tokens, "apart": apart}
    rows = []
    for name, control, (kind, of) in itertools.product(("auroc", "difference"), (True, False), lengths.items()):
        sample = Sample(np.arange(len(labels)), labels, of, labels.max() + 1, control)
        small, found = [], []
        for replicate in range(args.replicates):
            random = np.random.default_rng([args.seed, replicate, 1])
            probability = draw_probability(random, of, args.units, by_length=kind != "alike")
            _, p_value = SELECTORS[name](draw_counts(random, probability, of), sample)
            assert p_value is not None, "both have p-values"
            small.append((p_value < 0.05).mean())
            found.append((benjamini_hochberg(p_value.reshape(-1)) <= Q).sum())
        figures = f"{np.mean(small):.1%}", f"{np.mean(found):.1f}"
        rows.append((name, "yes" if control else "no", kind, *figures))
    print("No unit belongs to a category")
    print_table(("selector", "length controlled", "lengths", "p < 0.05", f"units found at q {Q}"), rows)


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=6000)
    parser.add_argument("--planted", type=int, default=30)
    parser.add_argument("--replicates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    recovery(args)
    false_positives(args)


if __name__ == "__main__":
    main()
