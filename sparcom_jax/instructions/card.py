"""The card of an instruction file: what is in it, and which rules of a good set it breaks.

A good set tells its categories apart by what they ask and by nothing else: they are equal in number and in length, no
row is a variation of another, and no phrasing, topic or label stands for its category.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from sparcom_jax.errors import InputError
from sparcom_jax.instructions.checks import check_rows, first_mention, is_checked, words_of
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.printable import printable

LENGTH_BINS = {"short": (10, 29), "medium": (30, 79), "long": (80, 200)}
BIN_SHARE = (0.3, 0.375)
GRAM = 5
MAX_OVERLAP = 0.3
OPENING_WORDS = 4
MIN_OPENINGS = 0.6
MIN_TOPICS = 20
ROWS_PER_TOPIC = 10
MAX_LENGTH_ACCURACY = 1.5
LABEL_SLACK = 0.1
FOLDS = 10
LENGTH_LEVELS = 20


@dataclass(frozen=True)
class CategoryCard:
    """What is counted in one category.

    Attributes:
      rows: number of rows.
      bins: rows in each bin of length, `outside` for those in none.
      words: smallest, median and largest number of words of an instruction.
      openings: rows whose first four words no other row of the category has.
      topics: distinct topics; none if no row states one.
      nearest: the largest 5-gram overlap of two rows, and their ids.
      near_duplicates: pairs of rows that overlap by more than `MAX_OVERLAP`.
      checked: rows that say what their response is checked against.
      sources: rows of each source.
    """

    rows: int
    bins: dict[str, int]
    words: tuple[int, int, int]
    openings: int
    topics: int | None
    nearest: tuple[float, str, str]
    near_duplicates: int
    checked: int
    sources: dict[str, int]


@dataclass(frozen=True)
class Card:
    """The card of an instruction file.

    Attributes:
      categories: a card for each category.
      length_accuracy: share of the rows whose category is guessed from the length alone, in words and in characters.
      first_label: CLS rows whose response is the label that the instruction names first, and how many are expected.
      labels: for each set of labels, how often each is the response.
      response_faults: what is wrong with responses, by id.
      code_was_run: whether the checks that are code were among them.
      faults: the rules that the file breaks, one line each.
    """

    categories: dict[str, CategoryCard]
    length_accuracy: dict[str, float]
    first_label: tuple[int, float] | None
    labels: dict[tuple[str, ...], dict[str, int]]
    response_faults: dict[str, list[str]]
    code_was_run: bool
    faults: list[str]


def length_bin(instruction: str) -> str:
    """The bin of an instruction's length in words: short, medium, long, or `outside`."""
    count = len(instruction.split())
    return next((name for name, (low, high) in LENGTH_BINS.items() if low <= count <= high), "outside")


def make_card(instructions: InstructionSet, run_code: bool) -> Card:
    """Counts what the card shows and judges it.

    Args:
      instructions: any instruction file.
      run_code: whether checks that are code are run (`checks.check_rows`).

    Raises:
      InputError: a row has a field that the card shows in another type.
    """
    rows = instructions.rows
    for row in rows:
        _require_types(row, instructions.source)
    categories = {
        category: _category_card([row for row in rows if row["category"] == category])
        for category in instructions.categories
    }
    index = np.asarray(instructions.category_index())
    accuracy = {
        unit: length_accuracy(np.asarray([measure(row["instruction"]) for row in rows]), index)
        for unit, measure in (("words", lambda text: len(text.split())), ("characters", len))
    }
    labelled = [row for row in rows if row.get("labels")]
    labels: dict[tuple[str, ...], dict[str, int]] = {}
    for row in labelled:
        of_set = labels.setdefault(tuple(sorted(row["labels"])), dict.fromkeys(sorted(row["labels"]), 0))
        of_set[row["response"]] = of_set.get(row["response"], 0) + 1
    first = (
        (sum(_first_named(row) == row["response"] for row in labelled), sum(1 / len(row["labels"]) for row in labelled))
        if labelled
        else None
    )
    response_faults = check_rows(rows, run_code)
    faults = [
        *_count_faults(categories),
        *_length_faults(rows, accuracy, len(categories)),
        *_label_faults(first, labels, len(labelled)),
        *(f"{name}: {fault}" for name, listed in response_faults.items() for fault in listed),
    ]
    return Card(categories, accuracy, first, labels, response_faults, run_code, faults)


def _require_types(row: dict[str, Any], source: str) -> None:
    if not isinstance(row.get("topic"), str | None):
        raise InputError(f"{source}: {row['id']!r}: field 'topic' must be a string or null")
    labels = row.get("labels")
    if labels is not None and not (isinstance(labels, list) and all(isinstance(label, str) for label in labels)):
        raise InputError(f"{source}: {row['id']!r}: field 'labels' must be a list of strings, or null")


def length_accuracy(lengths: Int[np.ndarray, "I"], category: Int[np.ndarray, "I"]) -> float:
    """How well a category can be told from the length alone, cross-validated.

    The classifier cuts the training lengths into levels of equally many rows and answers with the category that is most
    frequent in the level. Chance is 1/C for C categories of equal size.

    Args:
      lengths: one feature, of each row.
      category: index of the category, of each row.

    Returns:
      Share of rows classified rightly when their fold was held out.
    """
    fold = np.random.default_rng(0).permutation(len(lengths)) % FOLDS
    right = 0
    for held_out in range(FOLDS):
        train, test = fold != held_out, fold == held_out
        if not train.any():
            continue
        edges = np.unique(np.quantile(lengths[train], np.linspace(0, 1, LENGTH_LEVELS + 1)[1:-1]))
        votes = np.zeros((len(edges) + 1, int(category.max()) + 1), int)
        np.add.at(votes, (np.searchsorted(edges, lengths[train], side="right"), category[train]), 1)
        guess = votes.argmax(axis=1)[np.searchsorted(edges, lengths[test], side="right")]
        right += int((guess == category[test]).sum())
    return right / len(lengths)


def gram_overlap(texts: list[str]) -> list[tuple[float, int, int]]:
    """The pairs of texts that share word 5-grams, with their Jaccard overlap, largest first."""
    sizes = []
    holders: dict[tuple[str, ...], list[int]] = {}
    for index, text in enumerate(texts):
        grams = grams_of(text)
        sizes.append(len(grams))
        for gram in grams:
            holders.setdefault(gram, []).append(index)
    shared = Counter(
        (first, second)
        for texts_of_gram in holders.values()
        for place, first in enumerate(texts_of_gram)
        for second in texts_of_gram[place + 1 :]
    )
    pairs = [(count / (sizes[i] + sizes[j] - count), i, j) for (i, j), count in shared.items()]
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))


def grams_of(text: str) -> set[tuple[str, ...]]:
    """The word 5-grams of a text; a text of fewer words is one gram."""
    words = words_of(text)
    return {tuple(words[start : start + GRAM]) for start in range(max(len(words) - GRAM + 1, 1))}


def render(card: Card) -> str:
    """The card as plain text, the broken rules last."""
    lines = [
        f"{'category':<10} {'rows':>5} {'short':>6} {'medium':>7} {'long':>5} {'outside':>8} {'words':>12} "
        f"{'openings':>9} {'topics':>7} {'overlap':>8} {'checked':>8}"
    ]
    for name, one in card.categories.items():
        bins = one.bins
        topics = "-" if one.topics is None else one.topics
        lines.append(
            f"{name:<10} {one.rows:>5} {bins['short']:>6} {bins['medium']:>7} {bins['long']:>5} {bins['outside']:>8} "
            f"{'/'.join(map(str, one.words)):>12} {one.openings:>9} {topics:>7} {one.nearest[0]:>8.2f} {one.checked:>8}"
        )
    lines += [
        "",
        "words: smallest/median/largest of an instruction. openings: rows with first four words of their own.",
    ]
    lines += ["overlap: largest share of word 5-grams (Jaccard) that two rows of the category have in common.", ""]
    sources = sum((Counter(one.sources) for one in card.categories.values()), Counter())
    lines.append("sources: " + ", ".join(f"{name} {count}" for name, count in sources.most_common()))
    lines.append(
        "category guessed from the length alone (cross-validated): "
        + ", ".join(f"{value:.3f} by {unit}" for unit, value in card.length_accuracy.items())
        + f"; chance {1 / len(card.categories):.3f}"
    )
    if card.first_label:
        lines.append(f"label named first is the right one: {card.first_label[0]}, expected {card.first_label[1]:.0f}")
    for names, counts in sorted(card.labels.items(), key=lambda item: -sum(item[1].values()))[:10]:
        if sum(counts.values()) >= 2 * len(names):
            lines.append("labels: " + ", ".join(f"{name} {counts[name]}" for name in names))
    checked = "with their code run" if card.code_was_run else "their code not run (--run_code runs it)"
    lines.append(f"responses at fault: {len(card.response_faults)}, {checked}")
    lines += ["", *(f"FAULT {fault}" for fault in card.faults), f"{len(card.faults)} faults"]
    return "\n".join(map(printable, lines))


def _category_card(rows: list[dict[str, Any]]) -> CategoryCard:
    counts = [len(row["instruction"].split()) for row in rows]
    bins = Counter(length_bin(row["instruction"]) for row in rows)
    openings = Counter(_opening(row["instruction"]) for row in rows)
    topics = {row["topic"] for row in rows if row.get("topic")}
    pairs = gram_overlap([row["instruction"] for row in rows])
    overlap, first, second = pairs[0] if pairs else (0.0, 0, 0)
    return CategoryCard(
        rows=len(rows),
        bins={name: bins[name] for name in (*LENGTH_BINS, "outside")},
        words=(min(counts), int(np.median(counts)), max(counts)),
        openings=sum(openings[_opening(row["instruction"])] == 1 for row in rows),
        topics=len(topics) or None,
        nearest=(overlap, rows[first]["id"], rows[second]["id"]),
        near_duplicates=sum(overlap > MAX_OVERLAP for overlap, _, _ in pairs),
        checked=sum(map(is_checked, rows)),
        sources=dict(Counter(str(row.get("source", "not stated")) for row in rows)),
    )


def _opening(instruction: str) -> tuple[str, ...]:
    return tuple(words_of(instruction)[:OPENING_WORDS])


def _first_named(row: dict[str, Any]) -> str:
    def place(label: str) -> tuple[int, int]:
        found = first_mention(row["instruction"], label)
        return len(row["instruction"]) if found is None else found, -len(label)

    return str(min(map(str, row["labels"]), key=place))


def _count_faults(categories: dict[str, CategoryCard]) -> list[str]:
    faults = []
    sizes = {one.rows for one in categories.values()}
    if len(sizes) > 1:
        faults.append("categories differ in size: " + ", ".join(f"{name} {c.rows}" for name, c in categories.items()))
    for name, one in categories.items():
        for which, count in one.bins.items():
            low, high = (0.0, 0.0) if which == "outside" else BIN_SHARE
            if not low * one.rows <= count <= high * one.rows:
                allowed = f"{low:.1%} to {high:.1%}" if high else "none"
                faults.append(f"{name}: {count} of {one.rows} rows are {which} in length, allowed are {allowed}")
        if one.openings < MIN_OPENINGS * one.rows:
            faults.append(
                f"{name}: {one.openings} of {one.rows} rows have an opening of their own, "
                f"at least {MIN_OPENINGS:.0%} must"
            )
        wanted = min(MIN_TOPICS, max(one.rows // ROWS_PER_TOPIC, 1))
        if one.topics is not None and one.topics < wanted:
            faults.append(f"{name}: {one.topics} topics, at least {wanted} are needed")
        if one.near_duplicates:
            overlap, first, second = one.nearest
            faults.append(
                f"{name}: {one.near_duplicates} pairs of rows overlap by more than {MAX_OVERLAP}, "
                f"most of all {first} and {second} ({overlap:.2f})"
            )
    return faults


def _length_faults(rows: list[dict[str, Any]], accuracy: dict[str, float], categories: int) -> list[str]:
    faults = [
        f"{row['id']}: length_bin is {row['length_bin']!r}, by its words it is {length_bin(row['instruction'])!r}"
        for row in rows
        if "length_bin" in row and row["length_bin"] != length_bin(row["instruction"])
    ]
    allowed = MAX_LENGTH_ACCURACY / categories
    if categories > 1 and accuracy["words"] > allowed:
        faults.append(
            f"the length in words tells the category in {accuracy['words']:.3f} of the rows, over {allowed:.3f}"
        )
    return faults


def _label_faults(
    first: tuple[int, float] | None, labels: dict[tuple[str, ...], dict[str, int]], rows: int
) -> list[str]:
    faults = []
    if first and abs(first[0] - first[1]) > LABEL_SLACK * rows + 1:
        faults.append(f"the label named first is the right one {first[0]} times, expected are {first[1]:.0f}")
    for names, counts in labels.items():
        total = sum(counts.values())
        fair = total / len(names)
        if total >= 2 * len(names) and max(counts.values()) > 1.5 * fair + 1:
            faults.append("labels out of balance: " + ", ".join(f"{name} {counts[name]}" for name in names))
    return faults
