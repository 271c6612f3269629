"""Findings: what a result says in sentences, where its statistics carry that; and else that they do not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from sparcom_jax.report import marks
from sparcom_jax.report.manifest import model_name
from sparcom_jax.report.markup import GROUPS, isolated
from sparcom_jax.report.parts import Finding
from sparcom_jax.results.ablation import BASELINE, EFFECTS, SELECTIVITY
from sparcom_jax.results.numbers import interval, mean, number
from sparcom_jax.results.reader import Result, Row
from sparcom_jax.results.tables import CATEGORY_OVERLAP, CONTRASTS, ROUTING, ROUTING_DISTANCE, UNITS

NAMED = 4
"""Categories that a sentence names; the others are counted."""


def findings(result: Result) -> list[Finding]:
    """What a result says, the most important first; nothing of kinds that say nothing by themselves."""
    return [*OF_KIND[result.kind](result)] if result.kind in OF_KIND else []


def _ablation(result: Result) -> Iterator[Finding]:
    """Per target: which categories' units are needed by that category above others, and above both controls."""
    summary, name = result.summary, model_name(result.summary)
    if summary["settings"].get("keep"):
        return
    by = summary["units"]["selector"] if "units" in summary else "their cores"
    off = "Forcing" if summary["settings"].get("experts") == "force" else "Switching off"
    where = "" if all(row["held_out"] for row in result.tables[BASELINE]) else " (measured where they were chosen)"
    for target, found in summary["targets"].items():
        verb = off if target == "experts" else "Switching off"
        rows = [row for row in result.tables[SELECTIVITY] if row["target"] == target and row["own"] is not None]
        own = [row for row in rows if _specific(summary, found, row)]
        if not own:
            means = [mean(row[field] for row in rows) for field in ("own", "others", "own_matched")]
            yield Finding(
                f"{verb} the {target} of a category by {by} costs no category of {name} more than the others and both "
                f"controls: on average {number(means[0])} nats a token on itself, {number(means[1])} on others, and "
                f"{number(means[2])} for as many random ones of equal frequency{where}.", carried=False,
            )  # fmt: skip
            continue
        best = max(own, key=lambda row: row["selectivity"])
        category = best["category"]
        ends = next(row for row in result.tables[EFFECTS] if row["target"] == target
                    and row["category_off"] == row["category_measured"] == category)  # fmt: skip
        control = "" if best["own_matched"] is None else (
            f"; as many random ones of equal layer and frequency {number(best['own_matched'])}"
        )  # fmt: skip
        yield Finding(
            f"{verb} {number(best['units_off'])} {target} of {isolated(category)} (by {by}) costs {isolated(category)} "
            f"{number(best['own'])} nats a token (95% interval {interval(ends['ci_low'], ends['ci_high'])}) in {name}, "
            f"the other categories {number(best['others'])}{control}{where}. Of {len(rows)} categories, the units of "
            f"{_listed([row['category'] for row in own])} cost their own category more than the others and than "
            f"every random draw.", carried=True,
        )  # fmt: skip


def _specific(summary: Mapping[str, Any], found: Mapping[str, Any], row: Row) -> bool:
    """Whether a category's own effect exceeds that on the others, with its interval, and every draw of all controls."""
    at = summary["categories"].index(row["category"])
    highest = [control["high"][at][at] for control in found["controls"].values()]
    return (row["ci_low"] or 0) > 0 and row["own"] > 0 and all(one is None or row["own"] > one for one in highest)


def _evaluation(result: Result) -> Iterator[Finding]:
    """Of the group with the most units: which pairs of categories overlap more within than between them."""
    groups = result.summary["groups"]
    group = max(groups, key=lambda name: groups[name]["units"])
    rows = [row for row in result.of_group(CONTRASTS, group) if row["measure"] == "jaccard"]
    tested = [row for row in rows if row["p_value"] is not None]
    if not tested:
        return
    found = [row for row in tested if marks.significant(row["q_value"])]
    what = f"sets of {GROUPS.get(group, group)} of {model_name(result.summary)}"
    if found:
        most = max(found, key=lambda row: row["contrast"])
        yield Finding(
            f"In the {what}, {len(found)} of {len(tested)} pairs of categories overlap more within than between them "
            f"(q < {marks.SIGNIFICANT}, one-sided, length held alike): most {isolated(most['category_a'])} and "
            f"{isolated(most['category_b'])}, by a Jaccard of {number(most['contrast'])} "
            f"{interval(most['ci_low'], most['ci_high'])}, where shuffled labels give {number(most['null_mean'])}.",
            carried=True,
        )
    else:
        yield Finding(
            f"In the {what}, no pair of categories is shown to overlap more within than between them: the least q of "
            f"{len(tested)} pairs is {number(min(row['q_value'] for row in tested))}.", carried=False,
        )  # fmt: skip
    yield from _routing(result)


def _routing(result: Result) -> Iterator[Finding]:
    """How far the categories are routed apart, where there are experts, and whether further than shuffled labels."""
    tested = [row for row in result.tables[ROUTING_DISTANCE] if row["q_value"] is not None]
    if not tested:
        return
    apart = sum(marks.significant(row["q_value"]) for row in tested)
    distance, shuffled = (mean(row[field] for row in tested) for field in ("distance", "null_mean"))
    known = [row for row in result.tables[ROUTING] if row["share"] is not None]
    most = max(known, key=lambda row: row["share"] - row["share_elsewhere"])
    further = (
        f" Furthest from the others: expert {number(most['expert'])} of layer {number(most['layer'])} receives "
        f"{most['share']:.0%} of the routing of {isolated(most['category'])}, {most['share_elsewhere']:.0%} of others'."
    )  # fmt: skip
    yield Finding(
        f"In {model_name(result.summary)}, {apart} of {len(tested)} categories and layers are routed further from the "
        f"other categories than shuffled labels (q < {marks.SIGNIFICANT}, one-sided, length held alike): by a total "
        f"variation of {number(distance)} on average, shuffled {number(shuffled)}.{further if apart else ''}",
        carried=apart > 0,
    )


def _comparison(result: Result) -> Iterator[Finding]:
    """Of the group with the most units: how much of an instruction's sets, and of the cores, tuning left."""
    if not {CATEGORY_OVERLAP, UNITS} <= set(result.tables):
        return
    groups = result.summary["base"]["groups"]
    group = max(groups, key=lambda name: groups[name]["units"])
    rows = [row for row in result.of_group(CATEGORY_OVERLAP, group) if row["jaccard"] is not None]
    if not rows:
        return
    counts = {change: sum(row[change] or 0 for row in result.of_group(UNITS, group))
              for change in ("retained", "gained", "lost")}  # fmt: skip
    least = min(rows, key=lambda row: row["jaccard"])
    above = all((row["ci_low"] or 0) > (row["chance_popularity"] or 0) for row in rows)
    base, tuned = (model_name(side) for side in result.sides.values())
    overlap, chance = (mean(row[field] for row in rows) for field in ("jaccard", "chance_popularity"))
    yield Finding(
        f"From {base} to {tuned}, the {GROUPS.get(group, group)} of an instruction overlap by a Jaccard of "
        f"{number(overlap)} (by chance {number(chance)}), least those of {isolated(least['category'])}, "
        f"{number(least['jaccard'])} {interval(least['ci_low'], least['ci_high'])}; "
        f"of core units {number(counts['retained'])} are retained, {number(counts['gained'])} gained and "
        f"{number(counts['lost'])} lost.", carried=above,
    )  # fmt: skip


def _alignment(result: Result) -> Iterator[Finding]:
    """Of the group with the most units: whether those that are active most are those that matter."""
    groups = result.summary["groups"]
    name = max(groups, key=lambda one: groups[one]["units"])
    group, share = groups[name], result.summary["settings"].get("epsilon")
    top, beyond, correlation = (mean(group[field]) for field in ("overlap", "overlap_over_others", "spearman"))
    if top is None or share is None or group["chance"] is None:
        return
    more = top > 2 * group["chance"]
    yield Finding(
        f"In {model_name(result.summary)}, of the top {share:.0%} of {GROUPS.get(name, name)} by activation frequency "
        f"{top:.0%} are in the top by attribution to the response (chance {group['chance']:.0%})"
        + (f", and {beyond:.0%} where both are taken beyond the other categories" if beyond is not None else "")
        + f"; Spearman correlation over the units of a layer {number(correlation)}.", carried=more,
    )  # fmt: skip


def _listed(names: Sequence[str]) -> str:
    shown = [isolated(name) for name in names[:NAMED]]
    if len(names) > NAMED:
        shown.append(f"{len(names) - NAMED} more")
    return " and ".join(filter(None, (", ".join(shown[:-1]), shown[-1])))


OF_KIND: dict[str, Callable[[Result], Iterator[Finding]]] = {
    "ablate": _ablation,
    "evaluate": _evaluation,
    "compare": _comparison,
    "align": _alignment,
}
"""By kind of results, the most important first."""
