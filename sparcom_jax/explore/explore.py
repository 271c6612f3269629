"""What single units do: the first units of every category, with the texts and tokens that they are active at.

Axis legend: I instructions, C categories, n chosen units.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, UInt8

from sparcom_jax.batches.tokens import TokenizedSet, token_text
from sparcom_jax.capture.texts import captured_texts
from sparcom_jax.causal.texts import require_model_of
from sparcom_jax.convert.model_dir import ModelDir, as_model
from sparcom_jax.engine.dtype import compute_dtype
from sparcom_jax.engine.model import PlacedModel, place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.explore.cards import Activations, Card, example, example_texts, histogram, rounded
from sparcom_jax.explore.chosen import Chosen, columns, first_units, rows_to_read
from sparcom_jax.explore.effects import responses_to_score, unit_effects
from sparcom_jax.explore.neighbours import neighbours
from sparcom_jax.explore.probe import activations
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.explore.step import Places
from sparcom_jax.explore.words import output_words
from sparcom_jax.progress import progress, say
from sparcom_jax.resampling import bootstrap_weights, category_means, interval, one_hot
from sparcom_jax.store.attribution import attribution_path, open_attribution
from sparcom_jax.store.explored import open_explored, write_explored
from sparcom_jax.store.run import Run, as_run
from sparcom_jax.store.sets import DEFAULT_SET, open_sets, set_names
from sparcom_jax.store.units import as_units, require_of_run
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.unit_set import UnitSet


def explore(
    model: ModelDir | str | Path,
    run: Run | str | Path,
    units: UnitSet | str,
    settings: ExploreSettings = ExploreSettings(),
    execution: ExecutionSettings = ExecutionSettings(),
    *,
    set_name: str = DEFAULT_SET,
    other: Run | str | Path | None = None,
) -> dict[str, Any]:
    """Reads the texts that matter once more, and writes a card of each unit into the run.

    A card has the frequency of the unit by category, a histogram of its activations, the instructions where it is most
    active with the activation at every token, the tokens whose logits it moves most, the units that the same
    instructions hold, and where `settings.effects` asks for it what switching it off costs (docs/method.md, "Single
    units"). The values are those that the capture counted.

    Args:
      model: the model that the run was captured from, or its directory.
      run: a complete run that keeps counts, or its path or URL.
      units: a unit set that is stored beside it, or its name.
      settings: which units, and what is on a card.
      execution: where and how the model runs.
      set_name: the sets by which neighbours are found; without such a set cards have none, and it says so.
      other: the run of another model with the same units, over the same instructions, such as the base of a tuned one:
        cards also say how often the unit is active there.

    Returns:
      What `open_explored` reads.

    Raises:
      InputError: the run is incomplete, keeps sets, or was captured from another model; the units are of another run,
        not stored, or none; the other run has other units or instructions; effects are asked for, and a category has
        no responses; or numbers are not finite.
    """
    model, run, beside = as_model(model), as_run(run), None if other is None else as_run(other)
    settings.check()
    execution.check()
    run.require_complete()
    units = as_units(run, units)
    require_model_of(run, model)
    require_of_run(run, units)
    chosen = first_units(units, settings.top)
    if not (chosen and units.name):
        raise InputError(f"{run.location}: {units.title} hold no unit, or are not stored beside the run, so nothing "
                         f"can be explored")  # fmt: skip
    if beside:
        _require_alike(run, beside)
    responses = responses_to_score(model, run, units, settings.effects) if settings.effects else None
    frequency = _frequency(run, chosen)
    sample = run.first_rows(settings.sample)
    rows = rows_to_read(run, frequency, settings.examples, sample)
    texts = captured_texts(model, run, rows)
    placed = place_model(model, make_placement(execution.placement, model.config),
                         compute_dtype(execution.dtype, model.dtype))  # fmt: skip
    seen = _read(placed, run, texts, rows, chosen, execution.batch_tokens)
    tokenizer = model.tokenizer()
    text_of = cache(partial(token_text, tokenizer))
    cards = [
        {
            "unit": one.name,
            "group": one.group.name,
            "layer": one.group.layers[one.index[0]],
            "of": {category: {"rank": rank, "score": rounded(score)} for category, (rank, score) in one.of.items()},
            "frequency": of_category,
        }
        for one, of_category in zip(chosen, _by_category(run, frequency, settings), strict=True)
    ]
    _add_examples(cards, seen, run, texts, rows, settings, text_of)
    _add_words(cards, chosen, placed, tokenizer, settings.words, text_of)
    _add_neighbours(cards, chosen, run, set_name, settings.neighbours)
    _add_attribution(cards, chosen, run)
    if beside:
        _add_means(cards, "other", run, _frequency(beside, chosen), run.category)
    if responses:
        _add_by_category(cards, "effect", run, unit_effects(placed, run, responses, chosen, execution.batch_tokens))
    write_explored(run, units.name, {
        "run_digest": run.digest,
        "units": units.record(),
        "settings": asdict(settings),
        "categories": run.categories,
        "read": len(rows),
        "sample": len(sample),
        **({"other": {"run": beside.address, "run_digest": beside.digest}} if beside else {}),
        **({"effects": {"responses": len(responses.names), "held_out": responses.held_out}} if responses else {}),
        "cards": cards,
    })  # fmt: skip
    return open_explored(run, units.name)


def _require_alike(run: Run, other: Run) -> None:
    """Refuses another run whose units or instructions are not those of a run.

    Raises:
      InputError: they differ, or the other run is incomplete.
    """
    other.require_complete()
    if unlike := [name for name in {**run.groups, **other.groups} if run.groups.get(name) != other.groups.get(name)]:
        raise InputError(f"{other.location}: has other units than {run.location} ({first_of(unlike)})")
    if run.manifest.instructions.digest != other.manifest.instructions.digest:
        raise InputError(f"{other.location}: was captured from other instructions than {run.location}")


def _frequency(run: Run, chosen: Sequence[Chosen]) -> Float32[np.ndarray, "I n"]:
    arrays = {name: run.frequency(name) for name in dict.fromkeys(one.group.name for one in chosen)}
    return columns(arrays, chosen, run)


def _add_means(
    cards: list[Card], field: str, run: Run, values: Float32[np.ndarray, "I n"], category: UInt8[np.ndarray, "I"]
) -> None:
    """Adds the mean over the instructions of every category."""
    means = category_means(values.astype(np.float64), one_hot(category[None], len(run.categories)))[0]
    _add_by_category(cards, field, run, means.T)


def _add_by_category(cards: list[Card], field: str, run: Run, values: Float64[np.ndarray, "n C"]) -> None:
    for card, of_category in zip(cards, values, strict=True):
        card[field] = {name: rounded(value) for name, value in zip(run.categories, of_category, strict=True)}


def _read(
    model: PlacedModel, run: Run, texts: TokenizedSet, rows: Int64[np.ndarray, "R"], chosen: Sequence[Chosen],
    batch_tokens: int,
) -> list[dict[int, Float32[np.ndarray, "T"]]]:  # fmt: skip
    """The activations of each unit at all tokens of each text, by the number of the text."""
    names = [run.instructions[row]["id"] for row in rows]
    groups = [one.group.name for one in chosen]
    within = [groups[:number].count(name) for number, name in enumerate(groups)]
    seen: list[dict[int, np.ndarray]] = [{} for _ in chosen]
    convention = run.manifest.capture["convention"]
    with progress("explore", len(rows), "instructions") as bar:
        for text, found in activations(model, texts, names, _places(chosen), convention, batch_tokens):
            for of, name, at in zip(seen, groups, within, strict=True):
                of[text] = found[name][at]
            bar.advance()
    return seen


def _places(chosen: Sequence[Chosen]) -> dict[str, Places]:
    made = {}
    for name in dict.fromkeys(one.group.name for one in chosen):
        index = [one.index for one in chosen if one.group.name == name]
        layer = [at[0] for at in index]
        expert = [at[1] if name in ("routed", EXPERT_GROUP) else 0 for at in index]
        neuron = [at[-1] if name != EXPERT_GROUP else 0 for at in index]
        parts: Any = [np.asarray(part, np.int32) for part in (layer, expert, neuron)]
        made[name] = Places(*parts)
    return made


def _by_category(run: Run, frequency: Float32[np.ndarray, "I n"], settings: ExploreSettings) -> list[Card]:
    """Of each unit, the mean frequency of every category, with its interval over instructions."""
    size = len(run.categories)
    random = np.random.default_rng([settings.seed, 0])
    values = frequency.astype(np.float64)
    means = category_means(values, one_hot(run.category[None], size))[0]
    low, high = interval(category_means(values, bootstrap_weights(run.category, size, settings.bootstraps, random)))
    return [
        {
            name: [rounded(part[category, unit]) for part in (means, low, high)]
            for category, name in enumerate(run.categories)
        }
        for unit in range(frequency.shape[1])
    ]


def _add_examples(
    cards: list[Card], seen: Sequence[Activations], run: Run, texts: TokenizedSet, rows: Int64[np.ndarray, "R"],
    settings: ExploreSettings, text_of: Callable[[int], str],
) -> None:  # fmt: skip
    """Adds the histogram of activations, and the texts that are shown."""
    spans = [slice(int(first), int(end)) for first, end in zip(texts.first_counted, texts.end_counted, strict=True)]
    sample = np.flatnonzero(np.isin(rows, run.first_rows(settings.sample))).tolist()
    for card, values in zip(cards, seen, strict=True):
        counted = {text: of[spans[text]] for text, of in values.items()}
        card["activations"] = histogram(counted, sample)
        card["examples"] = [
            {
                "id": run.instructions[rows[text]]["id"],
                "category": run.instructions[rows[text]]["category"],
                "frequency": rounded(np.mean(counted[text] > 0)),
                **example(values[text], spans[text], texts.ids[text], settings.window, text_of),
            }
            for text in example_texts(counted, settings.examples)
        ]


def _add_words(
    cards: list[Card], chosen: Sequence[Chosen], model: PlacedModel, tokenizer: Any, count: int,
    text_of: Callable[[int], str],
) -> None:  # fmt: skip
    """Adds what neurons raise and lower, for a model with an output head."""
    if not (count and model.config.head):
        return
    for name in dict.fromkeys(one.group.name for one in chosen if one.group.name != EXPERT_GROUP):
        of_group = [(card, one) for card, one in zip(cards, chosen, strict=True) if one.group.name == name]
        index: Int64[np.ndarray, "n dims"] = np.asarray([one.index for _, one in of_group])
        found = output_words(model, of_group[0][1].group, index, count, len(tokenizer))
        for (card, _), words in zip(of_group, found, strict=True):
            for field, tokens in zip(("raises", "lowers"), words, strict=True):
                card[field] = [[text_of(token), rounded(z)] for token, z in tokens]


def _add_neighbours(cards: list[Card], chosen: Sequence[Chosen], run: Run, set_name: str, count: int) -> None:
    if not count:
        return
    if set_name not in set_names(run.store):
        say(f"{run.location}: no set {set_name!r}, so cards have no neighbours (identify makes one)")
        return
    sets = open_sets(run, set_name)
    for groups in TARGETS.values():
        of_target = [(card, one) for card, one in zip(cards, chosen, strict=True)
                     if one.group.name in groups and one.group.name in sets.groups]  # fmt: skip
        among = {name: sets.groups[name] for name in groups if name in sets.groups}
        found = neighbours(sets, among, [(one.group.name, one.index) for _, one in of_target], count)
        for (card, _), units in zip(of_target, found, strict=True):
            card["neighbours"] = [[name, rounded(value)] for name, value in units]


def _add_attribution(cards: list[Card], chosen: Sequence[Chosen], run: Run) -> None:
    """Adds what units contribute to the responses of each category, where the run has an attribution by gradients."""
    attributes = run.store.read_attributes(attribution_path("gradient"))
    if attributes is None or not attributes.get("complete"):
        return
    attribution = open_attribution(run, "gradient")
    values = columns({name: attribution.value(name) for name in attribution.groups}, chosen, run)
    _add_means(cards, "attribution", run, values, attribution.category)
