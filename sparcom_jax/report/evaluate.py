"""The section of an evaluation: generality, uniqueness and depth of the units of every category."""

from collections.abc import Iterator, Sequence
from typing import Any

from sparcom_jax.report import charts, marks
from sparcom_jax.report.markup import how_made, paragraph, settings, table, title_of
from sparcom_jax.report.parts import Choice, Figure, Headlines, Part
from sparcom_jax.results.numbers import interval, mean, number
from sparcom_jax.results.reader import Number, Result, Row
from sparcom_jax.results.tables import COMBINATIONS, CONTRASTS, DEPTH, OVERLAP, UNIQUENESS

MEASURES = {"jaccard": "Jaccard", "overlap_coefficient": "overlap coefficient"}
DEFINITIONS = {
    "jaccard": "Jaccard, units in both sets / units in either,",
    "overlap_coefficient": "Overlap coefficient, units in both sets / units in the smaller,",
}
SHOWN_COMBINATIONS = 20


def _headlines(result: Result, model: str) -> Iterator[Sequence[object]]:
    """Rows of the headlines, one per group of units."""
    for name, group in result.summary["groups"].items():
        cells = [row for row in result.of_group(OVERLAP, name) if row["measure"] == "jaccard"]
        within = [row for row in cells if row["category_a"] == row["category_b"]]
        between = [row for row in cells if row["category_a"] != row["category_b"]]
        means = [mean(row[key] for row in part) for part in (within, between) for key in ("value", "chance_popularity")]
        unique = mean(row["uniqueness"] for row in result.of_group(UNIQUENESS, name))
        yield result.name, model, name, *means, unique, group["general_units"], group["units"]


HEADLINES = Headlines(
    title="Generality and uniqueness",
    columns=(
        "result",
        "model",
        "units",
        "within",
        "chance within",
        "between",
        "chance between",
        "uniqueness",
        "general units",
        "of all units",
    ),
    meaning=(
        "Within: mean Jaccard overlap (0 to 1) of the unit sets of two instructions of one category, its "
        "generality, averaged over the categories. Between: the same for two instructions of different categories. "
        "By chance: what random sets would, of the "
        "same size in every layer and with every unit in as many of them. Uniqueness: share (0 to 1) of "
        "a category's core units that are core to no other category, averaged over the categories. General units: "
        "units in the cores of all categories. Instructions of a category have units of their own where they "
        "overlap more within than between; both can exceed chance through general units."
    ),
    rows=_headlines,
)


def own(result: Result) -> list[Part]:
    """Whether categories have units of their own: overlap, contrasts, uniqueness and combinations, by group."""
    summary = result.summary
    return [
        paragraph(
            f"S(i) is the set of units of instruction i ({how_made(summary)}).",
            "The core of a category holds the units that at least a share rho of its instructions hold",
            f"({settings(summary['settings'])}).",
        ),
        *map(paragraph, summary["cautions"]),
        Choice("units", {title_of(name): [*_group(result, name)] for name in summary["groups"]}),
    ]


def where(result: Result) -> list[Part]:
    """In which layers they are."""
    return [Choice("units", {title_of(name): [_depth(result, name)] for name in result.summary["groups"]})]


def _group(result: Result, name: str) -> Iterator[Part]:
    group = result.summary["groups"][name]
    explained = group["overlap_explained_by"]
    yield paragraph(
        f"{number(group['units'])} units in {len(group['layers'])} layer{'s' * (len(group['layers']) != 1)};",
        f"mean |S(i)| {number(group['mean_set_size'])} units;",
        f"Spearman correlation of |S(i)| with token count {number(group['spearman_size_token_count'])};",
        f"of the variance of the pairs' overlap, categories explain {number(explained['category'])}",
        f"and lengths {number(explained['length'])} (R2).",
    )
    yield Choice("measure", {title: [*_overlap(result, name, measure)] for measure, title in MEASURES.items()})
    yield from _uniqueness(result, name)


def _overlap(result: Result, name: str, measure: str) -> Iterator[Part]:
    title = MEASURES[measure]
    source = [result.path(OVERLAP)]
    rows = [row for row in result.of_group(OVERLAP, name) if row["measure"] == measure]
    beyond = [
        {**row, "value": _less(row["value"], row["chance_popularity"]),
         "told": f"{number(row['value'])}, by chance {number(row['chance_popularity'])}"}
        for row in rows
    ]  # fmt: skip
    caption = (
        f"{DEFINITIONS[measure]} of S(i) and S(j) (0 to 1), mean over all pairs of different instructions, less what "
        "chance gives: within a category on the diagonal (its generality), between two off it. Chance, by popularity: "
        "the intersections expected of random sets with the same size in every layer, and every unit in as many of "
        "them. Orange is above chance, blue below."
    )
    categories = result.summary["categories"]
    spec = charts.heatmaps({f"mean {title}, less chance": _cells(beyond, "value")}, categories,
                           axes=("category of i", "category of j"), legend="beyond chance", diverging=True)  # fmt: skip
    yield Figure(f"{name}-{measure.replace('_', '-')}", spec, caption, source)
    columns = ("category", "and", title, "95% interval", "chance by popularity", "chance, all units alike", "pairs")
    cells = [
        (row["category_a"], row["category_b"], row["value"], interval(row["ci_low"], row["ci_high"]),
         row["chance_popularity"], row["chance"], row["pairs"])
        for row in rows
    ]  # fmt: skip
    titled = f"Mean {title} and two chance levels; all units alike: hypergeometric in every layer"
    yield table(columns, cells, source, title=titled, folded=True)
    yield from _contrasts(result, name, measure)


def _contrasts(result: Result, name: str, measure: str) -> Iterator[Part]:
    source = [result.path(CONTRASTS)]
    rows = [row for row in result.of_group(CONTRASTS, name) if row["measure"] == measure]
    if not rows:
        return
    least = min((row["smallest_p"] for row in rows if row["comparable"]), default=None)
    caption = (
        f"Contrast of two categories: mean {MEASURES[measure]} within them less that between them. "
        + marks.meaning(
            f"{marks.ABOVE} above shuffled labels",
            least,
            "one-sided, Benjamini-Hochberg over the pairs, labels of the two shuffled within strata of token count",
        )
        + f" {marks.UNTESTABLE} untestable: no instruction of one is as long as one of the other."
    )
    marked = [{**row, "mark": _mark(row)} for row in rows]
    spec = charts.heatmaps({"contrast": _cells(marked, "contrast")}, result.summary["categories"],
                           axes=("category", "category"), legend="contrast", diverging=True)  # fmt: skip
    yield Figure(f"{name}-{measure.replace('_', '-')}-contrast", spec, caption, source)
    columns = ("category", "and", "contrast", "95% interval", "shuffled within length", "p", "q", "smallest p",
               "instructions", "comparable")  # fmt: skip
    cells = [
        (row["category_a"], row["category_b"], row["contrast"], interval(row["ci_low"], row["ci_high"]),
         row["null_mean"], row["p_value"], row["q_value"], row["smallest_p"], row["instructions"], row["comparable"])
        for row in rows
    ]  # fmt: skip
    titled = "The same in numbers; comparable: instructions in strata that hold both categories"
    yield table(columns, cells, source, title=titled, folded=True)


def _cells(rows: Sequence[Row], key: str) -> list[Row]:
    """The cells of a whole category table, from those of its upper half."""
    cells = {}
    for row in rows:
        cell = {"value": row[key], "label": number(row[key]) + row.get("mark", ""), "told": row.get("told")}
        for at in ((row["category_a"], row["category_b"]), (row["category_b"], row["category_a"])):
            cells[at] = {"row": at[0], "column": at[1], **cell}
    return list(cells.values())


def _less(value: Number | None, chance: Number | None) -> Number | None:
    return None if value is None or chance is None else value - chance


def _mark(row: Row) -> str:
    if row["q_value"] is None:
        return marks.UNTESTABLE if row["comparable"] == 0 else ""
    return marks.ABOVE if marks.significant(row["q_value"]) else ""


def _depth(result: Result, name: str) -> Figure:
    group = result.summary["groups"][name]
    layer_units = group["units"] / max(len(group["layers"]), 1)
    rows = result.of_group(DEPTH, name)
    panels = {
        "core units of the category": [_point(row, row["core_share"]) for row in rows],
        "S(i), mean over the category's instructions": [
            _point(row, None if row["mean_set_size"] is None else row["mean_set_size"] / layer_units) for row in rows
        ],
    }
    spec = charts.lines(panels, result.summary["categories"], x="relative_depth", x_title="relative depth",
                        y_title="share of the layer's units")  # fmt: skip
    specific = "ISEs (instruction-specific experts)" if name == "expert" else "ISNs (instruction-specific neurons)"
    caption = (
        f"Depth of the {specific}: share of a layer's units, by category and relative depth (layer number / "
        "(number of layers - 1); 0 first layer, 1 last). Left core units, right the mean of |S(i)| within the layer."
    )
    return Figure(f"{name}-depth", spec, caption, [result.path(DEPTH)])


def _point(row: Row, value: Number | None) -> Row:
    return {**{name: row[name] for name in ("category", "layer", "relative_depth")}, "value": value}


def _uniqueness(result: Result, name: str) -> Iterator[Part]:
    general, categories = result.summary["groups"][name]["general_units"], result.summary["categories"]
    columns = ("category", "core units", "of these general", "unique units", "uniqueness", "95% interval",
               "unique units, shuffled within length", "q (one-sided)")  # fmt: skip
    rows = [
        (row["category"], row["core_units"], row["general_share"], row["unique_units"], row["uniqueness"],
         interval(row["ci_low"], row["ci_high"]), row["null_unique_units"], row["q_value"])
        for row in result.of_group(UNIQUENESS, name)
    ]  # fmt: skip
    title = (
        "Uniqueness: share of a category's core units that are in no other core (0 to 1), and what labels shuffled "
        f"within strata of token count give. General units, in all {len(categories)} cores: {number(general)}."
    )
    yield table(columns, rows, [result.path(UNIQUENESS)], title=title)
    listed = result.of_group(COMBINATIONS, name)
    held = sorted((row for row in listed if row["units"]), key=lambda row: (-row["units"], row["category_count"]))
    if not held:
        yield paragraph("No category has core units: no combination of categories to show.")
        return
    bars: list[dict[str, Any]] = [
        {"categories": row["categories"], "units": row["units"], "members": _members(row, categories)}
        for row in held[:SHOWN_COMBINATIONS]
    ]
    caption = (
        "Core units by the exact combination of categories that share them (units of one category alone are its unique "
        f"units). The largest {len(bars)} of {len(held)} combinations that hold units; combinations.csv lists "
        f"{number(len(listed))}, {number(len(held) - len(bars))} more with units than are shown here."
    )
    yield Figure(f"{name}-combinations", charts.combinations(bars, categories), caption,
                 [result.path(COMBINATIONS)])  # fmt: skip


def _members(row: Row, categories: Sequence[str]) -> list[str]:
    """The categories of a combination, in order. A name may hold the `+` that joins them, hence the search."""
    joined = row["categories"]
    found: list[list[str]] = [[]]
    for category in categories:
        found += [longer for chosen in found if joined.startswith("+".join(longer := [*chosen, category]))]
    return next((chosen for chosen in found if len(chosen) == row["category_count"] and "+".join(chosen) == joined), [])
