"""The first screen: what was studied, what was found, and where that is weak."""

from collections.abc import Iterator, Mapping, Sequence

from sparcom_jax.report.ablate import against_controls
from sparcom_jax.report.commands import chosen_by, of_settings, overrides
from sparcom_jax.report.compare import compares_units
from sparcom_jax.report.findings import findings
from sparcom_jax.report.manifest import model_name
from sparcom_jax.report.marks import SIGNIFICANT
from sparcom_jax.report.markup import render, text
from sparcom_jax.report.parts import Figure, Finding
from sparcom_jax.results.ablation import BASELINE
from sparcom_jax.results.numbers import mean, number
from sparcom_jax.results.reader import Number, Result

FINDINGS = 4
MODELS = 6
CATEGORIES = 12
"""How many the first screen names."""
FEW_SCORED = 10
"""Instructions of a category below which effects rest on few."""
HARDLY_TRAINED = 4.0
"""Nats per token of an untouched model: that perplexity, over 50, is of one that hardly predicts responses."""


def first_screen(results: Sequence[Result], anchors: Mapping[str, str], note: str) -> Iterator[str]:
    """The head of the page as HTML.

    Args:
      results: all of them, those of the largest model first.
      anchors: by key of a result, the place that its findings link to.
      note: what is said besides, as plain text.
    """
    yield '<header id="findings"><h1>What carries each kind of instruction</h1>'
    yield f"<p class=what>{_models(results)}. {_instructions(results)}</p>"
    if note:
        yield f"<p class=what><bdi>{text(note)}</bdi></p>"
    if changed := deviations(results):
        yield f"<p class=what>Other than the defaults: <bdi>{text('; '.join(changed))}</bdi>.</p>"
    chips = [*warnings(results)]
    if chips:
        items = "".join(f'<li><a href="#{text(anchors[result.key])}"><bdi>{text(chip)}</bdi></a></li>'
                        for chip, result in chips)  # fmt: skip
        yield f'<ul class="chips" aria-label="Warnings">{items}</ul>'
    yield '<ol class="findings">'
    for result, finding in _chosen(results):
        mark = "" if finding.carried else ' class="not"'
        yield (f'<li{mark}><bdi>{text(finding.sentences)}</bdi> '
               f'<a href="#{text(anchors[result.key])}">Evidence</a></li>')  # fmt: skip
    yield "</ol>"
    if picture := key_picture(results):
        yield from render([picture], "key")
    yield "<noscript><p>The charts need JavaScript; the tables are complete without it.</p></noscript></header>"


def key_picture(results: Sequence[Result]) -> Figure | None:
    """The effects of the units of the largest model, beside both controls; None where nothing was switched off."""
    ablations = [result for result in results if result.kind == "ablate" and _measures_effects(result)]
    return against_controls(ablations[0], next(iter(ablations[0].summary["targets"]))) if ablations else None


def deviations(results: Sequence[Result]) -> list[str]:
    """Settings of the results that are not the defaults, as plain text, each once with all its values."""
    found: dict[str, dict[str, None]] = {}
    for result in results:
        changed = [of_settings(result.kind, result.summary["settings"])]
        for side in result.sides.values():
            changed.append(chosen_by(side))
            manifest = side.get("manifest") or {}
            changed += [overrides(name, manifest.get(name, {})) for name in ("capture", "execution")]
        for flags in changed:
            for name, value in flags.items():
                found.setdefault(name.removeprefix("config."), {})[str(value)] = None
    return [f"{name} {' or '.join(values)}" for name, values in sorted(found.items())]


def warnings(results: Sequence[Result]) -> Iterator[tuple[str, Result]]:
    """Where results are weak: a few words for all that are weak in one way, and the first of them."""
    yield from _of_ablations([result for result in results if result.kind == "ablate"])
    told = {result.key: len(result.summary["cautions"]) for result in results if result.kind == "evaluate"}
    for result in results:
        if told.get(result.key):
            yield (
                f"{sum(told.values())} cautions on instructions and sets, in {sum(map(bool, told.values()))} runs",
                result,
            )
            break
    for result in results:
        if result.kind == "compare" and compares_units(result) and result.summary["capture_differences"]:
            yield "two runs were captured with different settings", result
            break


def _of_ablations(results: Sequence[Result]) -> Iterator[tuple[str, Result]]:
    draws: dict[Number, Result] = {}
    scored: dict[Number, Result] = {}
    losses: dict[str, tuple[Number, Result]] = {}
    for result in results:
        for target in result.summary["targets"].values():
            for control in target["controls"].values():
                if (smallest := control["smallest_p"]) is not None and smallest >= SIGNIFICANT:
                    draws.setdefault(smallest, result)
        rows = result.tables[BASELINE]
        if rows and (least := min(row["instructions"] for row in rows)) < FEW_SCORED:
            scored.setdefault(least, result)
        if (loss := mean(row["nll"] for row in rows)) is not None and loss > HARDLY_TRAINED:
            losses.setdefault(model_name(result.summary), (loss, result))
    if draws:
        yield f"few random draws: no p below {min(draws):.2g}", draws[min(draws)]
    if scored:
        yield f"effects rest on {min(scored)} instructions a category", scored[min(scored)]
    for result in results:
        if not all(row["held_out"] for row in result.tables[BASELINE]):
            yield "measured on instructions that chose the units", result
            break
    if losses:
        values = [loss for loss, _ in losses.values()]
        span = number(min(values)) if len(values) == 1 else f"{number(min(values))} to {number(max(values))}"
        who = next(iter(losses)) if len(losses) == 1 else f"{len(losses)} models"
        yield f"{who} hardly trained: {span} nats a token untouched", next(iter(losses.values()))[1]


def _chosen(results: Sequence[Result]) -> list[tuple[Result, Finding]]:
    """What it says: one finding of each kind, of the largest model, and then more of what was carried."""
    found = [(result, finding) for result in results for finding in findings(result)]
    order = {"ablate": 0, "evaluate": 1, "compare": 2, "align": 3}
    found.sort(key=lambda one: order[one[0].kind])  # stable: within a kind the largest model stays first
    first, kinds = [], set()
    for one in found:
        if one[0].kind not in kinds:
            kinds.add(one[0].kind)
            first.append(one)
    more = [one for one in found if one not in first and one[1].carried]
    return sorted([*first, *more][:FINDINGS], key=lambda one: order[one[0].kind])


def _measures_effects(result: Result) -> bool:
    return not result.summary["settings"].get("keep") and bool(result.summary["targets"])


def _models(results: Sequence[Result]) -> str:
    """The models, the largest first, as HTML."""
    named: dict[str, None] = {}
    for result in results:
        for side in result.sides.values():
            count, layers = side["model"].get("parameters"), side["model"].get("num_layers")
            size = f", {_rounded(count)} parameters" if count else ""
            named[f"{model_name(side)}{size}{f', {layers} layers' if layers else ''}"] = None
    shown = [f"<b><bdi>{text(name)}</bdi></b>" for name in [*named][:MODELS]]
    if len(named) > MODELS:
        shown.append(f"{len(named) - MODELS} more")
    return "; ".join(shown)


def _rounded(count: Number) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return str(count)


def _instructions(results: Sequence[Result]) -> str:
    """Categories and numbers of instructions, once for each distinct list of them, as HTML."""
    lines: dict[str, None] = {}
    for result in results:
        categories, counts = result.summary["categories"], result.summary.get("instructions")
        if result.kind == "evaluate" and counts:
            kinds = f"{len(categories)} categories of {number(min(counts))} to {number(max(counts))}"
            if len(categories) <= CATEGORIES:
                kinds = ", ".join(f"{name} {number(count)}" for name, count in zip(categories, counts, strict=True))
            lines[f"{number(sum(counts))} instructions: {kinds}"] = None
    return f"<bdi>{text('; '.join(lines))}.</bdi>" if lines else ""
