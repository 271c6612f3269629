"""Comparisons: what tuning changed unit by unit, and what any two models have in common."""

from collections.abc import Callable, Iterator, Sequence

from sparcom_jax.report import charts
from sparcom_jax.report.markup import code, heading, how_made, paragraph, settings, table, text, title_of
from sparcom_jax.report.parts import Choice, Figure, Headlines, Part
from sparcom_jax.results.columns import Table
from sparcom_jax.results.numbers import interval, mean
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tables import (
    CATEGORY_OVERLAP,
    CHANGED_UNITS,
    DEPTH_PROFILE,
    DEPTH_SHIFT,
    FREQUENCY_DRIFT,
    MATRIX_CORRELATION,
    ROUTING_DRIFT,
    UNITS,
)
from sparcom_jax.units.groups import EXPERT_GROUP

SHOWN_UNITS = 12
"""Of a group and category, that the page names; the table names more."""
SHARES = {"set_share": "in S(i), mean over the category's instructions", "core_share": "in the category's core"}


def _headlines(result: Result, base: str, tuned: str) -> Iterator[Sequence[object]]:
    """Rows of the headlines, one per group of units; none for models that do not compare unit by unit."""
    if not {CATEGORY_OVERLAP, UNITS} <= set(result.tables):
        return
    for name in result.summary["base"]["groups"]:
        rows = result.of_group(CATEGORY_OVERLAP, name)
        overlap = [mean(row[key] for row in rows) for key in ("jaccard", "chance_popularity")]
        units = result.of_group(UNITS, name)
        yield result.name, base, tuned, name, *overlap, *(_sum(units, change) for change in charts.CHANGES)


HEADLINES = Headlines(
    title="Base and tuned",
    columns=("result", "base", "tuned", "units", "Jaccard", "by chance", "retained", "gained", "lost"),
    meaning=(
        "Jaccard: mean overlap (0 to 1) of an instruction's unit sets in the two models, averaged over the "
        "categories. Retained, gained and lost: core units of the categories (count), summed over the categories."
    ),
    rows=_headlines,
)


def compares_units(result: Result) -> bool:
    """Whether unit by unit: of a model and what was tuned from it. Else they have depths and categories in common."""
    return UNITS in result.tables


def changes(result: Result) -> list[Part]:
    """What tuning changed; nothing of models that do not compare unit by unit."""
    return [*_parts(result)] if compares_units(result) else []


def common(result: Result) -> list[Part]:
    """What two models share that do not compare unit by unit."""
    return [] if compares_units(result) else [*_parts(result)]


def _parts(result: Result) -> Iterator[Part]:
    summary = result.summary
    yield (
        f"<p>Base {code(summary['base']['run'])}, tuned {code(summary['tuned']['run'])}: "
        f"<bdi>{text(how_made(summary['base']))}; {text(settings(summary['settings']))}.</bdi></p>"
    )
    if summary["capture_differences"]:
        yield table(
            ("setting of capture", "base", "tuned"),
            [(name, *map(str, pair)) for name, pair in summary["capture_differences"].items()],
            title="The two runs were captured with different settings:",
        )
    for reason in dict.fromkeys(summary["absent"].values()):
        names = [name for name, why in summary["absent"].items() if why == reason]
        yield paragraph(f"Not compared, because {reason}: {', '.join(names)}.")
    for name, part in PARTS.items():
        if name in result.tables:
            yield from part(result)


def _overlap(result: Result) -> Iterator[Part]:
    yield heading("Overlap of base and tuned")
    source = [result.path(CATEGORY_OVERLAP)]
    names = ("measured", "chance by popularity")
    panels = {group: [*_overlap_points(result, group, names)] for group in result.summary["base"]["groups"]}
    caption = (
        "Jaccard of S(i) of the base model and S(i) of the tuned one (0 to 1): mean over the category's instructions "
        "with its 95% bootstrap interval. Chance by popularity: intersections expected of random sets with the same "
        "size in every layer, and every unit in as many of them, in either model."
    )
    spec = charts.intervals(panels, result.summary["categories"], title="mean Jaccard", names=names)
    yield Figure("overlap", spec, caption, source)
    columns = ("units", "category", "instructions", "mean Jaccard", "95% interval", "chance by popularity",
               "chance, all units alike")  # fmt: skip
    rows = [(row["group"], row["category"], row["instructions"], row["jaccard"],
             interval(row["ci_low"], row["ci_high"]), row["chance_popularity"], row["chance"])
            for row in result.tables[CATEGORY_OVERLAP]]  # fmt: skip
    yield table(columns, rows, source, title="The same in numbers", folded=True)


def _units(result: Result) -> Iterator[Part]:
    yield heading("Core units retained, gained and lost")
    source, categories = [result.path(UNITS)], result.summary["categories"]
    by_layer = {group: [*_changed(result.of_group(UNITS, group))] for group in result.summary["base"]["groups"]}
    totals = {group: [*_totals(rows, categories)] for group, rows in by_layer.items()}
    caption = (
        "Core units of each category (count), all layers together: retained are core in both models, gained only in "
        "the tuned one, lost only in the base one."
    )
    yield Figure("units", charts.changed(totals, categories), caption, source)
    layered = {
        title_of(group): [Figure(f"{group}-units-by-layer", charts.changed_by_layer(rows, categories),
                                 f"{group}: core units (count) retained, gained and lost in each layer.", source)]
        for group, rows in by_layer.items() if any(row["units"] for row in rows)
    }  # fmt: skip
    if layered:
        yield Choice("units", layered)


def _named(result: Result) -> Iterator[Part]:
    """The units that changed most, by name, by group and category."""
    columns = ("unit", "share, base", "share, tuned", "change", "p", "q", "core")
    options: dict[str, list[Part]] = {}
    for group in result.summary["base"]["groups"]:
        for category in result.summary["categories"]:
            rows = [row for row in result.of_group(CHANGED_UNITS, group) if row["category"] == category][:SHOWN_UNITS]
            cells = [(row["unit"], row["share_base"], row["share_tuned"], row["change"], row["p_value"], row["q_value"],
                      row["core"]) for row in rows]  # fmt: skip
            if cells:
                title = f"{category}: share of its instructions whose S(i) holds the unit, the largest changes first"
                options[f"{title_of(group)}, {category}"] = [table(columns, cells, [result.path(CHANGED_UNITS)],
                                                                   title=title)]  # fmt: skip
    if options:
        yield heading("Units that changed most")
        yield Choice("units and category", options)


def _shift(result: Result) -> Iterator[Part]:
    yield heading("Shift in depth")
    columns = ("units", "category", "quantity", "mean depth, base", "mean depth, tuned", "Wasserstein-1",
               "Jensen-Shannon (bits)")  # fmt: skip
    quantities = {"core_units": "core units", "set_size": "mean |S(i)|"}
    rows = [
        (row["group"], row["category"], quantities.get(row["quantity"], row["quantity"]), row["mean_depth_base"],
         row["mean_depth_tuned"], row["wasserstein"], row["jensen_shannon"])
        for row in result.tables[DEPTH_SHIFT]
    ]  # fmt: skip
    title = (
        "How far the distribution over layers moved, of the core units and of the mean |S(i)|: Wasserstein-1 distance "
        "in relative depth (0 first layer, 1 last), Jensen-Shannon divergence in bits (0 to 1)."
    )
    yield table(columns, rows, [result.path(DEPTH_SHIFT)], title=title)


def _frequency(result: Result) -> Iterator[Part]:
    yield heading("Drift of activation frequency")
    categories = result.summary["categories"]
    panels = {group: [_moved(row, "mean_absolute_change", band=True) for row in rows]
              for group in result.summary["base"]["groups"]
              if (rows := result.of_group(FREQUENCY_DRIFT, group))}  # fmt: skip
    if panels:
        caption = (
            "Drift of the activation frequency p (share of an instruction's tokens at which a neuron is positive): "
            "mean of |p tuned - p base| over the layer's neurons and the category's instructions, with 95% bootstrap "
            "bands."
        )
        spec = charts.lines(panels, categories, x="layer", x_title="layer", y_title="mean |change of p|", whole=True)
        yield Figure("frequency-drift", spec, caption, [result.path(FREQUENCY_DRIFT)])


def _routing(result: Result) -> Iterator[Part]:
    yield heading("Drift of routing")
    rows = result.tables[ROUTING_DRIFT]
    panels = {
        "mean over instructions": [_moved(row, "total_variation", band=True) for row in rows],
        "of the category's mean routing": [_moved(row, "total_variation_of_mean") for row in rows],
    }
    caption = (
        "Drift of the routing: total variation distance (0 to 1) between the shares of an instruction's routing that "
        "each expert receives in the base and in the tuned model. Left its mean over the category's instructions with "
        "95% bootstrap bands, right the distance between the category's mean shares."
    )
    categories = result.summary["categories"]
    spec = charts.lines(panels, categories, x="layer", x_title="layer", y_title="total variation", whole=True)
    yield Figure("routing-drift", spec, caption, [result.path(ROUTING_DRIFT)])


def _profiles(result: Result) -> Iterator[Part]:
    yield heading("Relative depth of the two models")
    rows = result.tables[DEPTH_PROFILE]
    groups = list(dict.fromkeys(row["group"] for row in rows))
    kinds = {"neurons": [group for group in groups if group != EXPERT_GROUP], "experts": [EXPERT_GROUP]}
    drawn = {}
    for kind, chosen in kinds.items():
        for field, meaning in SHARES.items():
            shown = [
                {"category": row["category"], "model": row["model"], "group": row["group"],
                 "relative_depth": row["relative_depth"], "value": row[field]}
                for row in rows if row["group"] in chosen and row[field] is not None and _reached(result, row)
            ]  # fmt: skip
            if shown:
                spec = charts.profiles(shown, result.summary["categories"], chosen, ("base", "tuned"), "share of layer")
                caption = (
                    f"{kind.capitalize()}: share of a layer's units {meaning}, read at 11 relative depths (0 first "
                    "layer, 1 last) by linear interpolation, from a group's first layer to its last."
                )
                figure = Figure(f"{kind}-{field.replace('_', '-')}", spec, caption, [result.path(DEPTH_PROFILE)])
                drawn[f"{kind}, {meaning}"] = [figure]
    if drawn:
        yield Choice("profile", drawn)


def _reached(result: Result, row: Row) -> bool:
    """Whether a depth lies within those of the group's layers: what is beyond is no value of any layer."""
    side = result.summary[row["model"]]
    layers, count = side["groups"][row["group"]]["layers"], side["model"].get("num_layers")
    if not layers or not count:
        return True
    last, step = max(count - 1, 1), 0.05  # half of the distance of two depths
    return bool(min(layers) / last - step <= row["relative_depth"] <= max(layers) / last + step)


def _correlation(result: Result) -> Iterator[Part]:
    yield heading("Correlation of the category tables")
    columns = ("base", "tuned", "measure", "over", "cells", "Pearson", "shuffled", "p", "Spearman", "shuffled", "p",
               "shuffles")  # fmt: skip
    rows = [
        (row["group_base"], row["group_tuned"], row["measure"].replace("_", " "), row["cells"], row["cell_count"],
         row["pearson"], row["null_pearson"], row["p_pearson"],
         row["spearman"], row["null_spearman"], row["p_spearman"], row["shuffles"])
        for row in result.tables[MATRIX_CORRELATION]
    ]  # fmt: skip
    title = (
        "Whether the two models agree on which categories overlap: correlation (-1 to 1) of their tables of mean "
        "overlap, over all cells or only those between two categories; the median, and a one-sided p, where labels are "
        "shuffled among instructions of similar length, for both models alike."
    )
    yield table(columns, rows, [result.path(MATRIX_CORRELATION)], title=title)


def _overlap_points(result: Result, group: str, names: tuple[str, str]) -> Iterator[Row]:
    measured, chance = names
    for row in result.of_group(CATEGORY_OVERLAP, group):
        bounds = {"low": row["ci_low"], "high": row["ci_high"]}
        yield {"category": row["category"], "what": measured, "value": row["jaccard"], **bounds}
        yield {"category": row["category"], "what": chance, "value": row["chance_popularity"]}


def _changed(rows: Sequence[Row]) -> Iterator[Row]:
    for row in rows:
        for change in charts.CHANGES:
            yield {"category": row["category"], "layer": row["layer"], "change": change, "units": row[change]}


def _totals(rows: Sequence[Row], categories: Sequence[str]) -> Iterator[Row]:
    for category in categories:
        for change in charts.CHANGES:
            chosen = [row for row in rows if (row["category"], row["change"]) == (category, change)]
            yield {"category": category, "change": change, "units": _sum(chosen, "units")}


def _sum(rows: Sequence[Row], field: str) -> int:
    return sum(row[field] or 0 for row in rows)


def _moved(row: Row, field: str, *, band: bool = False) -> Row:
    point = {"category": row["category"], "layer": row["layer"], "value": row[field]}
    return {**point, "low": row["ci_low"], "high": row["ci_high"]} if band else point


PARTS: dict[Table, Callable[[Result], Iterator[Part]]] = {
    CATEGORY_OVERLAP: _overlap,
    UNITS: _units,
    CHANGED_UNITS: _named,
    DEPTH_SHIFT: _shift,
    FREQUENCY_DRIFT: _frequency,
    ROUTING_DRIFT: _routing,
    DEPTH_PROFILE: _profiles,
    MATRIX_CORRELATION: _correlation,
}
"""What a comparison has to show, by its table."""
