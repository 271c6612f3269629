"""What the benchmark of an accelerator says of numbers that are wrong: a goal is missed."""

import json
import time
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.accelerator import parity, small
from benchmarks.accelerator.parity import Case, count_flips, differing, make_case, random_edits
from benchmarks.accelerator.readings import Reading, Tap, compare, count
from benchmarks.accelerator.record import Record

LENGTHS = np.asarray([2, 3], np.int32)


def reading() -> Reading:
    """Two texts of 2 and 3 tokens through two MoE layers of 4 experts, of which a token takes 2."""
    random = np.random.default_rng(0)
    expert = np.asarray([[0, 1], [1, 3], [0, 2], [2, 3], [0, 3]])

    def values(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(np.float32)

    taps = {("routed", layer): Tap(expert, values(5, 2, 6), values(5, 2, 6)) for layer in (1, 2)}
    taps["shared", 2] = Tap(np.zeros((5, 1), np.int64), values(5, 1, 8), values(5, 1, 8))
    return Reading(values(5, 7), taps)


def changed(one: Reading, key: tuple[str, int], **fields: np.ndarray) -> Reading:
    return one._replace(taps=one.taps | {key: one.taps[key]._replace(**fields)})


def test_a_flip_is_found() -> None:
    theirs = reading()
    gate = theirs.taps["shared", 2].gate.copy()
    gate[3, 0, 4] *= -1
    found = compare(changed(theirs, ("shared", 2), gate=gate), theirs, LENGTHS)
    assert (found.flips, found.signs, found.rerouted, found.routed) == (1, 5 * (12 + 12 + 8), 0, 10)
    assert found.taps == pytest.approx(2 * abs(gate[3, 0, 4]) / np.abs(gate).max())
    assert found.logits == 0


def test_what_follows_a_token_that_is_routed_elsewhere_is_not_compared() -> None:
    theirs = reading()
    expert = theirs.taps["routed", 1].expert.copy()
    expert[3] = [1, 2]
    other = changed(theirs, ("routed", 1), expert=expert)
    # The second token of the second text and the third: their logits, and what they meet in layer 2.
    logits, gate = theirs.logits.copy(), theirs.taps["routed", 2].gate.copy()
    logits[3:], gate[3:] = 100, -gate[3:]
    found = compare(changed(other._replace(logits=logits), ("routed", 2), gate=gate), theirs, LENGTHS)
    assert (found.flips, found.rerouted, found.routed) == (0, 1, 5 + 3)
    assert found.signs == 4 * 12 + 3 * (12 + 8)
    assert (found.logits, found.taps) == (0, 0)
    logits[2] = np.nan
    assert compare(other._replace(logits=logits), theirs, LENGTHS).logits == np.inf


def test_counts_are_those_of_a_loop() -> None:
    one = reading()
    counts = count(one.taps, LENGTHS, experts=4)
    routed, expert = np.zeros((2, 2, 4, 6), int), np.zeros((2, 2, 4), int)
    for layer in (0, 1):
        tap = one.taps["routed", layer + 1]
        for token, text in enumerate([0, 0, 1, 1, 1]):
            for choice in (0, 1):
                routed[text, layer, tap.expert[token, choice]] += tap.gate[token, choice] > 0
                expert[text, layer, tap.expert[token, choice]] += 1
    np.testing.assert_array_equal(counts["routed"], routed)
    np.testing.assert_array_equal(counts["expert"], expert)
    gate = one.taps["shared", 2].gate[:, 0] > 0
    np.testing.assert_array_equal(counts["shared"], np.stack([gate[:2].sum(0), gate[2:].sum(0)])[:, None])
    other = counts | {"shared": counts["shared"] + np.eye(2, 8, dtype=int)[:, None]}
    assert differing(counts, other) == 2 / (routed.size + expert.size + 2 * 8)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return make_case("llama", tmp_path_factory.mktemp("parity"))


def recorded(case: Case, file: Path, check: Any) -> dict[str, Any]:
    """Figures of a check by name."""
    check(Record("parity", file, time.time() + 60), case)
    return {one["name"]: one for one in map(json.loads, file.read_text().splitlines())}


def missed(figures: dict[str, Any]) -> set[str]:
    return {name for name, one in figures.items() if one["strict"] and not one["value"] <= one["goal"]}


def test_a_texts_words_are_its_tokens(case: Case) -> None:
    tokenizer = case.model.tokenizer()
    assert all(tokenizer(small.written(text))["input_ids"] == text.tolist() for text in case.ids)
    assert int(case.lengths.sum()) > 3000


@pytest.mark.parametrize("fault", ["none", "weight", "sign"])
def test_a_wrong_weight_misses_its_goal(fault: str, case: Case, tmp_path: Path) -> None:
    params = case.params
    block = dict(params["runs"][0])
    if fault == "weight":
        kernel = block["attention"]["q"]["kernel"]
        block["attention"] = block["attention"] | {"q": {"kernel": kernel.at[0, 3, 5].add(1.0)}}
    if fault == "sign":
        gate = block["mlp"]["gate"]["kernel"]
        block["mlp"] = block["mlp"] | {"gate": {"kernel": gate.at[1, :, 7].multiply(-1.0)}}
    wrong = Case(case.family, case.checkpoint, case.model, params | {"runs": {**params["runs"], 0: block}}, tmp_path)
    wrong.theirs = case.theirs
    figures = recorded(wrong, tmp_path / "record", parity.float32)
    assert figures["torch signs"]["value"] > 1e6
    expected = {"torch logit error", "torch tap error", "torch flips"}
    assert missed(figures) == (set() if fault == "none" else expected)


def test_count_flips_are_per_sign(case: Case) -> None:
    counts = count(case.ours[0].taps, case.lengths, 0)
    other = {"mlp": counts["mlp"].copy()}
    other["mlp"][3, 1, 5] += 2
    assert count_flips(case, counts, other) == 2 / (case.lengths.sum() * 3 * 128)


def test_random_edits_switch_off_a_tenth(case: Case) -> None:
    edits = random_edits(case.config, share_off=0.1)
    assert edits.mlp.scale is not None
    assert 0.85 < np.asarray(edits.mlp.scale).mean() < 0.95
    assert jnp.array_equal(edits.mlp.scale, random_edits(case.config, share_off=0.1).mlp.scale)
    assert np.asarray(random_edits(case.config, share_off=0.0).mlp.scale).all()
