"""Exploration: a card of each of the first units of every category."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sparcom_jax.report.markup import code, paragraph, script_json, settings, slug, text, wide
from sparcom_jax.report.parts import Part
from sparcom_jax.results.numbers import number
from sparcom_jax.results.reader import Result
from sparcom_jax.results.tables import CARD_CATEGORIES, CARD_UNITS

MOST_UNITS, MOST_EXAMPLES, MOST_TOKENS = 20, 4, 40
"""Of a category, of a card, and of an example: what the page has room for."""

KNOWN = {
    "other": "frequency in the other run",
    "attribution": "attribution, nats per token",
    "effect": "switched off, nats per token",
}
"""What a card may hold by category besides, and what it is called."""

Card = Mapping[str, Any]


def cards(result: Result) -> list[Part]:
    """What single units do, card by card."""
    summary = result.summary
    explored: Sequence[Card] = summary["cards"]
    left_out = [
        f"The page shows the first {MOST_UNITS} neurons and experts of each category",
        f"and {MOST_EXAMPLES} examples of each; summary.json has all {len(explored)} units.",
    ]
    parts: list[Part] = [
        paragraph(
            f"What single units of {summary['units']['name']!r} do, in {summary['read']:,} instructions that were",
            f"read once more ({settings(summary['settings'])}). Frequency: share of an instruction's tokens at which",
            "the unit is active, mean over a category, with 95% intervals. Raises and lowers: tokens whose logits its",
            "output moves most.", *left_out,
        ),
        f"<p class='source'>Tables: {code(result.path(CARD_UNITS))}, {code(result.path(CARD_CATEGORIES))}</p>",
        '<div class="cards"><p><label>Show only cards with <input type="search" data-filter></label></p>',
    ]  # fmt: skip
    if "other" in summary:
        parts.append(f"<p>The other run is {code(summary['other']['run'])}.</p>")
    if effects := summary.get("effects"):
        chose = "did not choose the units" if effects["held_out"] else "chose the units too, which flatters them"
        parts.append(paragraph(
            f"Switched off: what the likelihood of the responses to {effects['responses']} instructions that {chose}",
            "loses with that unit off and no other, mean over a category.",
        ))  # fmt: skip
    if not summary["texts"]:
        parts.append(paragraph("Texts of instructions are left out; explore --texts shows them."))
    shown = {category: _of_category(explored, category) for category in summary["categories"]}
    places = {one["unit"]: f"{slug(result.name)}-{one['unit']}" for of in shown.values() for one in of}
    for category, of in shown.items():
        if of:
            parts.append(f"<h3><bdi>{text(category)}</bdi></h3>")
            parts += [_card(one, category, places, texts=bool(summary["texts"])) for one in of]
    return [*parts, "</div>"]


def _of_category(cards: Sequence[Card], category: str) -> list[Card]:
    """The first units of a category, neurons before experts; a unit of several is shown where it ranks highest."""
    own = [one for one in cards if min(one["of"], key=lambda name: one["of"][name]["rank"], default=None) == category]
    ranked = sorted(own, key=lambda one: (one["group"] == "expert", one["of"][category]["rank"]))
    return [one for one in ranked if one["of"][category]["rank"] <= MOST_UNITS]


def _card(card: Card, category: str, places: Mapping[str, str], *, texts: bool) -> str:
    of = "; ".join(f"{name}: no. {one['rank']}, score {number(one['score'])}" for name, one in card["of"].items())
    mean = card["frequency"][category][0]
    others = [values[0] for name, values in card["frequency"].items() if name != category]
    elsewhere = f", elsewhere {sum(others) / len(others):.0%}" if others else ""
    words = " ".join(_word(token) for token, _ in card.get("raises", ())[:4])
    head = (
        f"<code>{text(card['unit'])}</code> <span class='source'>active at {mean:.0%} of tokens{elsewhere}</span>"
        + (f" {words}" if words else "")
    )
    body = "".join(_body(card, places, texts=texts))
    return (
        f'<details class="card" data-unit="{text(card["unit"])}"><summary>{head}</summary>'
        f'<div id="{text(places[card["unit"]])}"><p class="source"><bdi>{text(of)}</bdi> '
        f'<button type="button" data-copy="{text(card["unit"])}">Copy the name</button> '
        f'<button type="button" data-save="{text(card["unit"])}.json">Save as JSON</button></p>{body}'
        f'<script type="application/json">{script_json(_as_shown(card))}</script></div></details>'
    )


def _as_shown(card: Card) -> dict[str, Any]:
    """The card with no more examples than the page shows."""
    return {**card, "examples": card["examples"][:MOST_EXAMPLES]}


def _body(card: Card, places: Mapping[str, str], *, texts: bool) -> Iterator[str]:
    yield _frequencies(card)
    for field, title in (("raises", "Raises"), ("lowers", "Lowers")):
        if words := card.get(field):
            yield f"<p>{title}: {' '.join(_word(token) for token, _ in words)}</p>"
    if found := card.get("neighbours"):
        linked = {name: f'<a href="#{text(places[name])}">{text(name)}</a>' for name, _ in found if name in places}
        listed = ", ".join(f"{linked.get(name, text(name))} {number(value)}" for name, value in found)
        yield f"<p>Held by the same instructions (Jaccard): {listed}</p>"
    for one in card["examples"][:MOST_EXAMPLES]:
        title = f"{one['id']}, {one['category']}: at most {number(one['most'])}, active at {one['frequency']:.0%}"
        yield f"<p class='source'><bdi>{text(title)}</bdi></p>"
        if texts:
            yield _tokens(one)
    if not card["examples"]:
        yield paragraph("In no instruction that was read it is active.")


def _frequencies(card: Card) -> str:
    """A bar for every category, on the scale of the largest; the other run, and attribution, where they are known."""
    most = max(high for _, _, high in card["frequency"].values()) or 1.0
    known = {title: card[field] for field, title in KNOWN.items() if field in card}
    rows = []
    for name, (mean, low, high) in card["frequency"].items():
        more = "".join(f"<td class=n>{text(number(values.get(name)))}</td>" for values in known.values())
        rows.append(
            f"<tr><td><bdi>{text(name)}</bdi></td><td class=n>{mean:.1%}</td>"
            f'<td class="bar"><span style="width:{100 * mean / most:.1f}%"></span></td>'
            f"<td class=n>{low:.1%} to {high:.1%}</td>{more}</tr>"
        )
    head = "".join(
        f'<th scope="col">{one}</th>' for one in ("category", "frequency", "of the highest", "95% interval", *known)
    )
    return wide(f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>", "frequency by category")


def _tokens(one: Card) -> str:
    """The tokens around the most active one, the more active the darker; those that do not count are grey."""
    first = max(min(one["at"] - MOST_TOKENS // 2, len(one["tokens"]) - MOST_TOKENS), 0)
    stop = min(first + MOST_TOKENS, len(one["tokens"]))
    before, after = one["left_out"][0] + first, one["left_out"][1] + len(one["tokens"]) - stop
    marks = [f"{before} tokens before " if before else "", f" {after} tokens after" if after else ""]
    start, end = one["counted"]
    pieces = []
    for at in range(first, stop):
        shown = text(one["tokens"][at])
        share = one["activations"][at] / one["most"] if one["most"] > 0 else 0
        if not start <= at < end:
            pieces.append(f"<s>{shown}</s>")
        elif share >= 0.02:
            pieces.append(f'<i style="--a:{share:.2f}" title="{number(one["activations"][at])}">{shown}</i>')
        else:
            pieces.append(shown)
    outside = [f"<small>{text(mark)}</small>" if mark else "" for mark in marks]
    return f'<p class="tokens" dir="auto">{outside[0]}{"".join(pieces)}{outside[1]}</p>'


def _word(token: str) -> str:
    return f"<kbd>{text(token)}</kbd>"
