"""What the selectors of category units can and cannot: planted units that are found, and units where there are none."""

import argparse
import itertools
from collections.abc import Callable

import numpy as np
from scipy.special import ndtr, stdtr

from benchmarks import print_table
from benchmarks.validity.made_up import draw_counts, draw_probability, lengths_apart, lengths_of_hexainst, plant
from sparcom_jax.resampling import benjamini_hochberg
from sparcom_jax.select.auroc import auroc
from sparcom_jax.select.average_precision import average_precision
from sparcom_jax.select.difference import difference
from sparcom_jax.select.lape import activation_probability, lape
from sparcom_jax.select.sample import Sample

Q = 0.05


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
    apart = lengths_apart(np.random.default_rng(args.seed), labels)
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
