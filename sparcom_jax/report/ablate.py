"""The section of an ablation: what switching off the units of one category does to the loss on every other."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sparcom_jax.report import charts, marks
from sparcom_jax.report.markup import how_made, paragraph, settings, table
from sparcom_jax.report.parts import Choice, Figure, Headlines, Part
from sparcom_jax.results.ablation import ABLATION, BASELINE, DOSES, EFFECTS, SELECTIVITY, SUFFICIENCY
from sparcom_jax.results.numbers import interval, mean, number
from sparcom_jax.results.reader import Number, Result, Row

CHANGE = "change of NLL (nats per token)"
CONTROLS = {"random": "random", "random_matched": "random of equal frequency"}
"""The controls as the page calls them, by their name in the tables."""

Table = Sequence[Sequence[Number | None]]


def _headlines(result: Result, model: str) -> Iterator[Sequence[object]]:
    """Rows of the headlines, one per target."""
    for target, found in result.summary["targets"].items():
        changes: list[Table] = [found["delta"], *(found["controls"].get(name, {}).get("mean", []) for name in CONTROLS)]
        own = [mean(row[c] for c, row in enumerate(change)) for change in changes]
        other = [
            mean(value for c, row in enumerate(change) for value in (*row[:c], *row[c + 1 :])) for change in changes
        ]
        yield result.name, model, target, _chosen(result.summary), *own, *other


HEADLINES = Headlines(
    title="Switched off",
    columns=(
        "result",
        "model",
        "switched off",
        "units by",
        "own category",
        "own, random",
        "own, random of equal frequency",
        "others",
        "others, random",
        "others, random of equal frequency",
    ),
    meaning=(
        "Mean change of the negative log-likelihood (nats per token) when the units of a category, or as many random "
        "ones, are switched off: on that category itself, and on the others."
    ),
    rows=_headlines,
)


def _by_selector(result: Result, model: str) -> Iterator[Sequence[object]]:
    """Rows of the selectors' table, one per target: effects per unit, and how many categories the units are of."""
    for target in result.summary["targets"]:
        rows = [row for row in result.tables[SELECTIVITY] if row["target"] == target]
        beyond = sum((row["ci_low"] or 0) > 0 for row in rows)
        own, others, matched = (mean(row[field] for row in rows) for field in ("own", "others", "own_matched"))
        per_unit = mean(row["own_per_unit"] for row in rows)
        yield (model, _chosen(result.summary), target, mean(row["units_off"] for row in rows), own, others, matched,
               None if per_unit is None else 1000 * per_unit, f"{beyond} of {len(rows)}")  # fmt: skip


BY_SELECTOR = Headlines(
    title="Selectors by what their units do",
    columns=(
        "model",
        "selector",
        "switched off",
        "units",
        "own category",
        "others",
        "own, random of equal frequency",
        "own, by 1,000 units",
        "own above others",
    ),
    meaning=(
        "Mean change of the negative log-likelihood (nats per token) over the categories, and the same by 1,000 units. "
        "Own above others: the categories whose 95% interval of the difference lies above 0."
    ),
    rows=_by_selector,
)


def _chosen(summary: Mapping[str, Any]) -> str:
    """What chose the units, as the tables name their kind."""
    return str(summary["units"]["selector"]) if "units" in summary else "core"


def _keeps(summary: Mapping[str, Any]) -> bool:
    """Whether the units are kept, and all others are off."""
    return bool(summary["settings"].get("keep"))


def _done(summary: Mapping[str, Any], target: str) -> str:
    """What becomes of the units of a target."""
    if target == "experts" and summary["settings"].get("experts") == "force":
        return "forced"
    return "kept, and all others off" if _keeps(summary) else "switched off"


def effects(result: Result) -> list[Part]:
    """What switching off does to every category, by target."""
    summary = result.summary
    made, what = how_made(summary), "Units" if "units" in summary else "Core units"
    done = " or ".join(dict.fromkeys(_done(summary, target) for target in summary["targets"]))
    held_out = all(row["held_out"] for row in result.tables[BASELINE])
    parts: list[Part] = [
        paragraph(
            f"{what} of one category at a time are {done} ({made}; {settings(summary['settings'])}),",
            "and the loss on every category is measured again,",
            "on instructions that did not choose the units."
            if held_out
            else "also on instructions that chose the units, which flatters them.",
            "Random units, as many in every layer, are the control, and such of equal frequency besides.",
        )
    ]
    if origin := summary.get("units_from"):
        parts.append(paragraph(
            f"The units were chosen by another run, {summary['units']['run']}, of {origin['model']['source']} on "
            f"{origin['instructions']['source']}; {origin['instructions_in_common']} of this run's instructions were "
            f"among those that chose them, by id or by text."
        ))  # fmt: skip
    parts += [paragraph(f"No {name} units: {reason}.") for name, reason in summary["absent"].items()]
    parts.append(Choice("switched off", {
        target: [*_target(result, target, found)] for target, found in summary["targets"].items()
    }))  # fmt: skip
    columns = ("category", "instructions", "held out", "tokens", "NLL (nats per token)")
    rows = [list(row.values()) for row in result.tables[BASELINE]]
    title = "Mean negative log-likelihood with nothing switched off"
    return [*parts, table(columns, rows, [result.path(BASELINE)], title=title, folded=True)]


def _target(result: Result, target: str, found: dict[str, Any]) -> Iterator[Part]:
    categories, chosen = result.summary["categories"], _chosen(result.summary)
    controls = {name: one for name, one in found["controls"].items() if name in CONTROLS}
    done = {"forced": "forced", "switched off": "off"}.get(_done(result.summary, target), "kept")
    panels = {f"{chosen} {target} of the category {done}": _cells(found["delta"], categories, list(controls.values()))}
    panels |= {
        f"{CONTROLS[name]} {target} {done}, mean": _cells(one["mean"], categories) for name, one in controls.items()
    }
    least = max(one["smallest_p"] for one in controls.values())
    caption = (
        "Change of the mean negative log-likelihood (NLL, nats per token; above 0 the model got worse) on one category "
        f"while the {target} of another are {_done(result.summary, target)}. Random: as many units in every "
        f"layer, mean over the draws. "
        + marks.meaning(
            f"{marks.ABOVE} above, {marks.BELOW} below every control",
            least,
            "two-sided, Benjamini-Hochberg over the cells",
        )
    )
    axes = (f"units of category {done}", "category measured")
    spec = charts.heatmaps(panels, categories, axes=axes, legend="change of NLL", diverging=True)
    yield Figure(f"{target}-change", spec, caption, [result.path(EFFECTS)])
    yield against_controls(result, target)
    own = [
        row
        for row in result.tables[ABLATION]
        if row["target"] == target and row["category_off"] == row["category_measured"] and row["delta"] is not None
    ]
    named = {chosen: f"{chosen} units", **{name: f"{what} draw" for name, what in CONTROLS.items()}}
    points = [{"category": row["category_off"], "what": named.get(row["kind"], row["kind"]), "value": row["delta"]}
              for row in own]  # fmt: skip
    ranges = []
    for c, category in enumerate(categories):
        low, high = _of_all(controls, "low", c, min), _of_all(controls, "high", c, max)
        if low is not None and high is not None:
            ranges.append({"category": category, "low": low, "high": high})
    caption = (
        f"The diagonal: change of NLL (nats per token) on a category when its own {chosen} units are {done}, against "
        "every draw of random units; the grey bar is the range of the draws."
    )
    spec = charts.draws(points, ranges, categories, f"{chosen} units", CHANGE)
    yield Figure(f"{target}-against-random", spec, caption, [result.path(ABLATION)])
    yield _selectivity(result, target)
    yield from _kept(result, target) if _keeps(result.summary) else _doses(result, target)


def against_controls(result: Result, target: str) -> Figure:
    """Every category's own units, on itself and on others, beside both controls."""
    names = ("own category", "other categories", "own, random of equal frequency", "own, random")
    fields = ("own", "others", "own_matched", "own_random")
    ends = {
        row["category_off"]: {"low": row["ci_low"], "high": row["ci_high"]}
        for row in result.tables[EFFECTS]
        if row["target"] == target and row["category_off"] == row["category_measured"]
    }
    rows = [
        {"category": row["category"], "what": name, "value": row[field],
         **(ends[row["category"]] if field == "own" else {})}
        for row in result.tables[SELECTIVITY] if row["target"] == target
        for name, field in zip(names, fields, strict=True)
    ]  # fmt: skip
    caption = (
        f"Change of NLL (nats per token; above 0 the model got worse) when the {_chosen(result.summary)} {target} of a "
        f"category are {_done(result.summary, target)}: on the category itself with its 95% interval, mean over the "
        "others, and on the category when as many random ones are in their place."
    )
    spec = charts.effects(rows, result.summary["categories"], names, CHANGE)
    return Figure(f"{target}-effects", spec, caption, [result.path(SELECTIVITY), result.path(EFFECTS)])


def _of_all(controls: Mapping[str, Any], end: str, category: int, choose: Callable[..., Number]) -> Number | None:
    values = [one[end][category][category] for one in controls.values()]
    return None if None in values else choose(values)


def _selectivity(result: Result, target: str) -> str:
    columns = ("category", "units off", "own", "others", "own less others", "interval", "random", "q",
               "random of equal frequency", "q")  # fmt: skip
    rows = [
        (row["category"], row["units_off"], row["own"], row["others"], row["selectivity"],
         interval(row["ci_low"], row["ci_high"]), row["selectivity_random"], row["q_random"],
         row["selectivity_matched"], row["q_matched"])
        for row in result.tables[SELECTIVITY] if row["target"] == target
    ]  # fmt: skip
    title = "Selectivity: change of NLL on the category itself, and on the others (nats per token)"
    return table(columns, rows, [result.path(SELECTIVITY)], title=title)


def _doses(result: Result, target: str) -> Iterator[Part]:
    """The dose curves, where there are doses: what more and more of a category's units do."""
    rows = [row for row in result.tables[DOSES] if row["target"] == target]
    if not rows:
        return
    known = {(row["category"], row["units_off"]) for row in rows}
    rows += [row for row in result.tables[SELECTIVITY]
             if row["target"] == target and (row["category"], row["units_off"]) not in known]  # fmt: skip
    chosen = _chosen(result.summary)
    panels = {"own category": "own", "own less others": "selectivity", "own, random": "own_random",
              "own less others, random": "selectivity_random",
              f"own, {CONTROLS['random_matched']}": "own_matched",
              f"own less others, {CONTROLS['random_matched']}": "selectivity_matched"}  # fmt: skip
    of_panel = {title: [_point(row, column) for row in rows] for title, column in panels.items()}
    of_panel = {title: points for title, points in of_panel.items() if any(p["value"] is not None for p in points)}
    caption = (
        f"Change of NLL with more and more of the {chosen} {target} of a category off, those of the highest score "
        "first, up to all of them: on the category itself, and less the mean change on the others (band: bootstrap "
        "interval), and the same of as many random ones, mean over the draws."
    )
    spec = charts.lines(of_panel, result.summary["categories"], x="units", x_title=f"{target} off", y_title=CHANGE,
                        whole=True)  # fmt: skip
    yield Figure(f"{target}-doses", spec, caption, [result.path(DOSES), result.path(SELECTIVITY)])


def _kept(result: Result, target: str) -> Iterator[Part]:
    """How much of what is lost with all units off the kept ones recover; curves where there are doses."""
    rows = [row for row in result.tables[SUFFICIENCY]
            if row["target"] == target and row["category_kept"] == row["category_measured"]]  # fmt: skip
    columns = ("category", "units kept", "NLL, untouched", "all off", "kept", "recovered", "interval", "random", "q",
               "random of equal frequency", "q")  # fmt: skip
    cells = [
        (row["category_kept"], row["units_kept"], row["nll_untouched"], row["nll_all_off"], row["nll_kept"],
         row["recovered"], interval(row["ci_low"], row["ci_high"]), row["recovered_random"], row["q_random"],
         row["recovered_matched"], row["q_matched"])
        for row in rows
    ]  # fmt: skip
    title = "Sufficiency: the share of the loss with all units off that is not lost where a category's units are kept"
    yield table(columns, cells, [result.path(SUFFICIENCY)], title=title)
    if not any(row["target"] == target for row in result.tables[DOSES]):
        return
    panels = {"own units kept": "recovered", "random": "recovered_random",
              CONTROLS["random_matched"]: "recovered_matched"}  # fmt: skip
    points = {title: [{"category": row["category_kept"], "units": row["units_kept"], "value": row[column]}
                      for row in rows] for title, column in panels.items()}  # fmt: skip
    spec = charts.lines(points, result.summary["categories"], x="units", x_title=f"{target} kept",
                        y_title="share recovered", whole=True)  # fmt: skip
    caption = "Share of the category's own loss that is recovered by more and more of its units, highest score first."
    yield Figure(f"{target}-kept", spec, caption, [result.path(SUFFICIENCY)])


def _point(row: Row, column: str) -> Row:
    ends = {"low": row["ci_low"], "high": row["ci_high"]} if column == "selectivity" else {}
    return {"category": row["category"], "units": row["units_off"], "value": row[column], **ends}


def _cells(values: Table, categories: Sequence[str], against: Sequence[Mapping[str, Any]] = ()) -> list[Row]:
    return [
        {"row": off, "column": measured, "value": values[a][b],
         "label": number(values[a][b]) + _mark(values[a][b], a, b, against)}
        for a, off in enumerate(categories)
        for b, measured in enumerate(categories)
    ]  # fmt: skip


def _mark(value: Number | None, off: int, measured: int, against: Sequence[Mapping[str, Any]]) -> str:
    """Which way a change deviates from every control, where it does so significantly."""
    cells = [(one["q_value"][off][measured], one["mean"][off][measured]) for one in against]
    if not cells or value is None or not all(marks.significant(q) for q, _ in cells):
        return ""
    for mark, sign in ((marks.ABOVE, 1), (marks.BELOW, -1)):
        if all(sign * (value - control) > 0 for _, control in cells):
            return mark
    return ""
