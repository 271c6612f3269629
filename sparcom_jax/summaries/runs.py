"""Summaries of what is written into a run: by capture, identify, select, attribute and explore."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from sparcom_jax.errors import first_of
from sparcom_jax.results.numbers import Number, mean, number
from sparcom_jax.store.attribution import Attribution, attribution_path
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets, sets_path
from sparcom_jax.summaries.summary import Cell, Summary, Table, command
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS, Group
from sparcom_jax.units.names import unit_name
from sparcom_jax.units.unit_set import UnitSet

FIRST_UNITS = 3
LISTED = 8


def captured(run: Run, before: int, seconds: float) -> Summary:
    """What a capture made.

    Args:
      run: the run, as it is now.
      before: instructions that were done before the command.
      seconds: how long it took.
    """
    manifest, done = run.manifest, run.count_done()
    made, count = done - before, manifest.instructions.count
    of_categories = ""
    if done == count:  # else the process that writes the categories may not have come to it
        sizes = zip(run.categories, np.bincount(run.category, minlength=len(run.categories)).tolist(), strict=True)
        of_categories = f" ({first_of((f'{name} {n:,}' for name, n in sizes), LISTED)})"
    facts = [
        ("model", f"{manifest.model.source}, in {manifest.dtype} on {manifest.devices.platform}"),
        ("instructions", f"{done:,} of {count:,}{of_categories}"),
        ("units", ", ".join(f"{name} {group.unit_count:,}" for name, group in run.groups.items())),
        ("took", f"{number(seconds)} s{f', {number(made / seconds)} instructions/s' if made and seconds else ''}"),
    ]
    if tokens := manifest.tokens:
        facts.insert(2, ("tokens", f"{tokens.fed:,} fed, {tokens.counted:,} of them counted; "
                         f"{tokens.slots_filled:.1%} of the slots filled"))  # fmt: skip
    warnings = []
    if left := count - done:
        warnings.append(f"Left: {left:,} of {count:,}; run the same command again, or let the other processes end.")
    if cut := manifest.instructions.truncated:
        warnings.append(f"Too long and cut off: {len(cut):,} of {count:,} texts ({first_of(cut)}).")
    following = [] if left else [command("identify", run=run.location), command("select", run=run.location)]
    return Summary(f"capture: {run.location}", facts, [], warnings, following[: 1 if run.selection else 2])


def identified(sets: Sets) -> Summary:
    """What the sets of a run are: the mean |S(i)| of every category."""
    run, selection = sets.run, sets.manifest.selection
    size = {name: sets.size(name) for name in sets.groups}
    rows: list[list[Cell]] = []
    for index, category in enumerate(run.categories):
        of = run.category == index
        means = (float(values[of].mean()) if of.any() else None for values in size.values())
        rows.append([category, int(of.sum()), *means])
    columns = ["category", "instructions", *(f"{name} of {_units(group)}" for name, group in sets.groups.items())]
    warnings = [f"{name}: S(i) is empty for {empty:,} of {len(values):,} instructions."
                for name, values in size.items() if (empty := int((values == 0).sum()))]  # fmt: skip
    cut = "threshold" if selection.get("selector") == "threshold" else "epsilon"
    facts = [("by", f"{selection['selector']}, {cut} {selection[cut]}, ties {selection['ties']}")]
    flags = {"run": run.location} | ({} if sets.name == "excess" else {"set": sets.name})
    return Summary(
        f"identify: {run.location}/{sets_path(sets.name)}",
        facts,
        [Table(columns, rows, "mean |S(i)|")],
        warnings,
        [command("evaluate", **flags, output="DIR")],
    )


def _units(group: Group) -> str:
    return f"{group.unit_count:,}"


def chosen(run: Run, made: Sequence[UnitSet]) -> Summary:
    """The units of every category by each selector: how many, and the first."""
    origin = made[0].origin
    half = origin["half"]
    by = f"{len(half):,} of {run.manifest.instructions.count:,}" if half else f"all {run.manifest.instructions.count:,}"
    following = []
    if len(made) == 1:
        flags = {"model": run.manifest.model.path, "run": run.location, "units": made[0].name}
        following = [command("ablate", **flags, output="DIR"), command("explore", **flags)]
    return Summary(
        f"select: {run.location}, units {', '.join(units.name for units in made)}",
        [("chosen by", f"{by} instructions")],
        [_of_units(units, titled=len(made) > 1) for units in made],
        [f"{units.name}: no {target} of {first_of(empty)}." for units in made for target, empty in _empty(units)],
        following,
    )


def _of_units(units: UnitSet, *, titled: bool) -> Table:
    targets = {name: [group for group in groups if group in units.groups] for name, groups in TARGETS.items()}
    targets = {name: groups for name, groups in targets.items() if groups}
    counts = {group: units.counts([group]) for group in units.groups}
    rows: list[list[Cell]] = []
    for index, category in enumerate(units.categories):
        firsts = (", ".join(_first(units, groups, index)) for groups in targets.values())
        rows.append([category, *(int(of[index]) for of in counts.values()), *firsts])
    columns = ["category", *counts, *(f"first {name}" for name in targets)]
    return Table(columns, rows, units.name if titled else "")


def _first(units: UnitSet, groups: Sequence[str], category: int) -> list[str]:
    """The names of the units of a category with the highest scores; units that tie come by index."""
    found: list[tuple[float, str]] = []
    for name in groups:
        index = np.flatnonzero(units.mask[name][category])
        score = units.score[name][category].reshape(-1)[index]
        for at in np.argsort(-score, kind="stable")[:FIRST_UNITS]:
            place = np.unravel_index(index[at], units.groups[name].shape)
            found.append((float(score[at]), unit_name(units.groups[name], tuple(int(one) for one in place))))
    return [name for _, name in sorted(found, key=lambda one: -one[0])[:FIRST_UNITS]]


def _empty(units: UnitSet) -> Iterator[tuple[str, list[str]]]:
    """Targets with the categories that have no unit of them."""
    for target, groups in TARGETS.items():
        if of := [group for group in groups if group in units.groups]:
            lacking = [name for name, n in zip(units.categories, units.counts(of), strict=True) if not n]
            if lacking:
                yield target, lacking


def attributed(attribution: Attribution) -> Summary:
    """What an attribution is of."""
    run, told = attribution.run, attribution.attributes
    sizes = np.bincount(attribution.category, minlength=len(run.categories)).tolist()
    listed = first_of((f"{name} {n:,}" for name, n in zip(run.categories, sizes, strict=True)), LISTED)
    facts = [
        ("by", attribution.method + (f", in {told['steps']} steps" if told["steps"] > 1 else "")),
        ("responses", f"{sum(sizes):,} of {run.manifest.instructions.count:,} ({listed})"),
        ("units", ", ".join(f"{name} {_units(group)}" for name, group in attribution.groups.items())),
    ]
    lacking = [name for name, n in zip(run.categories, sizes, strict=True) if not n]
    warnings = [f"No response of {first_of(lacking)} is attributed."] if lacking else []
    by = {} if attribution.method == "gradient" else {"method": attribution.method}
    following = [
        command("select", run=run.location, selector="attribution", **by),
        *([] if run.selection else [command("align", run=run.location, output="DIR", **by)]),
    ]
    path = attribution_path(attribution.method)
    return Summary(f"attribute: {run.location}/{path}", facts, [], warnings, following)


def explored(made: str, cards: Mapping[str, Any]) -> Summary:
    """The first unit of every category, of those that have cards.

    Args:
      made: where the cards are.
      cards: what `open_explored` reads.
    """
    rows: list[list[Cell]] = []
    for category in cards["categories"]:
        ranked = [card for card in cards["cards"] if category in card["of"]]
        if not ranked:
            continue
        first = min(ranked, key=lambda card: card["of"][category]["rank"])
        frequency: dict[str, Number] = {name: value for name, (value, *_) in first["frequency"].items()}
        others = mean(value for name, value in frequency.items() if name != category)
        words = " ".join(repr(token) for token, _ in first.get("raises", ())[:3])
        rows.append([category, len(ranked), first["unit"], first["of"][category]["score"], frequency[category], others,
                     words])  # fmt: skip
    columns = ("category", "units", "first", "score", "active", "elsewhere", "raises")
    idle = [card["unit"] for card in cards["cards"] if not card["examples"]]
    warnings = [f"Active at no token that was read: {first_of(idle)}."] if idle else []
    neurons = sum(card["group"] != EXPERT_GROUP for card in cards["cards"])
    facts = [
        ("cards", f"{len(cards['cards']):,}, of {neurons:,} neurons and {len(cards['cards']) - neurons:,} experts"),
        ("texts read", f"{cards['read']:,}"),
    ]
    title = "the first unit of each: how often active there, elsewhere; tokens it raises"
    return Summary(f"explore: {made}", facts, [Table(columns, rows, title)], warnings)
