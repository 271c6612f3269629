"""Made-up counts in which the truth is known: every unit has a rate of its own, from which instructions deviate."""

import numpy as np

from sparcom_jax.instructions.rows import load_hexainst

SWITCHED_ON = 0.6
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


def lengths_apart(random: np.random.Generator, labels: np.ndarray) -> np.ndarray:
    """Lengths of which every category has its own: medians from 30 tokens to 161."""
    return random.lognormal(np.log(30 * 1.4**labels), 0.5).astype(int) + 5
