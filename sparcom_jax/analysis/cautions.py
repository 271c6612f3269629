"""What makes the results of an evaluation weak: said in sentences, and marked row by row."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Num

from sparcom_jax.instructions.card import MAX_OVERLAP, gram_overlap
from sparcom_jax.resampling import LEAST_FOR_INTERVAL
from sparcom_jax.store.run import Run

FEW_TOKENS = 20
"""T below which p takes so few values that many units tie."""
FEW_INSTRUCTIONS = 20
ODD = 2.0
"""Times the median, or less than its inverse: a set of odd size."""
MOST_COMPARED = 5000
"""Instructions beyond which only equal texts are looked for, because all pairs of texts are too many."""
SIGNIFICANT = 0.05


def duplicates(run: Run) -> list[str]:
    """Of every instruction, the id of an earlier one with the same text, or nearly; empty where there is none.

    Nearly the same are two that share more than 0.3 of their word 5-grams (Jaccard), as in the card of HexaInst.
    """
    texts, ids = [row["instruction"] for row in run.instructions], [row["id"] for row in run.instructions]
    found = [""] * len(texts)
    if len(texts) <= MOST_COMPARED:
        for overlap, first, second in gram_overlap(texts):
            if overlap > MAX_OVERLAP:
                found[second] = found[second] or ids[first]
        return found
    seen: dict[str, str] = {}
    for row, text in enumerate(texts):
        key = " ".join(text.lower().split())
        found[row] = seen.get(key, "")
        seen.setdefault(key, ids[row])
    return found


def odd_sizes(size: Num[np.ndarray, "I"]) -> Bool[np.ndarray, "I"]:
    """Sets more than twice as large as the median set, or less than half."""
    median = np.median(size)
    return (size > ODD * median) | (size * ODD < median)


def cautions(
    run: Run,
    duplicate_of: Sequence[str],
    odd: Mapping[str, Bool[np.ndarray, "I"]],
    untestable: Mapping[tuple[str, str], str],
    smallest_p: float,
) -> Iterator[str]:
    """Sentences on what is weak; none where nothing is.

    Args:
      run: the run.
      duplicate_of: from `duplicates`.
      odd: of every group, from `odd_sizes`.
      untestable: pairs of categories without a p-value, and why.
      smallest_p: the least p-value that a contrast can have.
    """
    sizes = np.bincount(run.category, minlength=len(run.categories))
    if len(run.categories) == 1:
        yield "There is one category: nothing to compare it with, so contrasts and uniqueness are undefined."
    if few := [f"{name} {n}" for name, n in zip(run.categories, sizes, strict=True) if n < FEW_INSTRUCTIONS]:
        yield (f"Few instructions ({', '.join(few)}; below {FEW_INSTRUCTIONS}): their means are uncertain, and below "
               f"{LEAST_FOR_INTERVAL} no interval is given.")  # fmt: skip
    if len({*sizes.tolist()}) > 1:
        yield ("Categories differ in size: cores of larger ones are steadier, so uniqueness is not comparable between "
               "them.")  # fmt: skip
    if short := int((run.token_count < FEW_TOKENS).sum()):
        yield (f"{short} of {len(run.category)} instructions have fewer than {FEW_TOKENS} counted tokens: their "
               f"frequencies take few values (few_tokens in instructions.csv).")  # fmt: skip
    if same := sum(map(bool, duplicate_of)):
        yield (f"{same} instructions repeat the text of an earlier one, or nearly (duplicate_of in instructions.csv): "
               f"they make a category look more alike than it is, and p-values too small.")  # fmt: skip
    if len(run.category) > MOST_COMPARED:
        yield f"More than {MOST_COMPARED} instructions: only equal texts were looked for, not such as are nearly equal."
    for group, of in odd.items():
        if of.any():
            yield (f"{group}: |S(i)| of {of.sum()} instructions is more than twice the median, or less than half "
                   f"(odd_size in instructions.csv).")  # fmt: skip
    for (first, second), why in untestable.items():
        yield f"{first} and {second} are untestable: {why}."
    if len(run.categories) > 1 and smallest_p >= SIGNIFICANT:
        yield f"No contrast can be significant: the least p-value that these shuffles can give is {smallest_p:.3g}."
