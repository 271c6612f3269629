"""Cards of units against forward hooks, plain NumPy and the run's own counts."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.analysis.units import write_cards
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.capture.texts import captured_texts
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.explore.cards import example, example_texts, histogram
from sparcom_jax.explore.explore import explore
from sparcom_jax.explore.settings import ExploreSettings
from sparcom_jax.explore.words import output_words
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.store.explored import open_explored
from sparcom_jax.units.groups import model_groups
from sparcom_jax.units.names import unit_of
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.families import CASES
from tests.synthetic_results import read_table

EXECUTION = ExecutionSettings(batch_tokens=256)
SETTINGS = ExploreSettings(top=3, examples=4, sample=5, window=24, words=4, neighbours=3, bootstraps=50)
SELECT = sj.SelectSettings(size=6, expert_size=2, control_length=False)


@pytest.fixture(scope="module")
def runs(
    llama: ModelDir, moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, sj.Run]:
    root, made = tmp_path_factory.mktemp("explored"), {}
    for name, model in (("llama", llama), ("moe", moe)):
        made[name] = capture(model, load_instructions(instruction_file), root / name, execution=EXECUTION)
        sj.identify(made[name], epsilon=0.2)
        sj.select(made[name], SELECT)
    return made


@pytest.fixture(scope="module")
def explored(runs: dict[str, sj.Run], llama: ModelDir, moe: ModelDir) -> dict[str, dict[str, Any]]:
    return {name: explore(model, runs[name], sj.open_units(runs[name], "auroc"), SETTINGS, EXECUTION)
            for name, model in (("llama", llama), ("moe", moe))}  # fmt: skip


def hooked(reference: Reference, text: np.ndarray, unit: str, run: sj.Run) -> np.ndarray:
    """What a unit does at every token of a text."""
    group, (place, *within) = unit_of(unit, run.groups)
    mlp = f"{reference.layer(group.layers[place])}.mlp"
    if group.name in ("mlp", "shared"):
        path = mlp if group.name == "mlp" else reference.shared(mlp)
        assert path is not None
        return reference.run(text, {"gate": reference.neurons(path)[0]})["gate"][:, within[0]]
    routed = reference.routed(reference.run(text, {"x": f"{mlp}:in"})["x"], mlp)
    hit = routed.chosen == within[0]
    values = routed.weight if group.name == "expert" else routed.gate[:, :, within[1]]
    return np.where(hit, values, 0).sum(axis=1)


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_activations_are_those_of_forward_hooks(
    name: str, explored: dict[str, Any], runs: dict[str, sj.Run], request: pytest.FixtureRequest
) -> None:
    run, reference = runs[name], Reference(request.getfixturevalue(f"hf_{name}"))
    model: ModelDir = request.getfixturevalue(name)
    row_of = {row["id"]: number for number, row in enumerate(run.instructions)}
    groups = {card["group"] for card in explored[name]["cards"]}
    assert groups >= ({"mlp"} if name == "llama" else {"routed", "expert"})
    for card in explored[name]["cards"][::2]:
        assert card["examples"]
        for one in card["examples"][:2]:
            (text,) = captured_texts(model, run, np.asarray([row_of[one["id"]]])).ids
            values = hooked(reference, text, card["unit"], run)
            start, after = one["left_out"]
            assert start + len(one["tokens"]) + after == len(text)
            shown = values[start : len(text) - after]
            np.testing.assert_allclose(one["activations"], shown, rtol=1e-3, atol=1e-4 * np.abs(values).max())
            assert one["most"] == max(one["activations"]) == one["activations"][one["at"]]
            assert one["most"] == pytest.approx(values.max(), rel=1e-3)
            assert one["frequency"] == pytest.approx(np.mean(values > 0), rel=1e-3)
            assert one["category"] == run.instructions[row_of[one["id"]]]["category"]


@pytest.mark.parametrize("name", ["llama", "moe"])
def test_a_card_says_what_the_run_counted(name: str, explored: dict[str, Any], runs: dict[str, sj.Run]) -> None:
    run, units = runs[name], sj.open_units(runs[name], "auroc")
    cards = explored[name]["cards"]
    assert len({card["unit"] for card in cards}) == len(cards)
    for card in cards:
        group, index = unit_of(card["unit"], run.groups)
        assert (card["group"], card["layer"]) == (group.name, group.layers[index[0]])
        p = np.asarray(run.frequency(group.name).read().result())[(slice(None), *index)].astype(float)
        for number, category in enumerate(run.categories):
            mean, low, high = card["frequency"][category]
            assert mean == pytest.approx(p[run.category == number].mean(), rel=1e-3, abs=1e-6)
            assert low <= mean <= high
        for category, of in card["of"].items():
            number = run.categories.index(category)
            assert units.mask[group.name][(number, *index)]
            assert of["score"] == pytest.approx(units.score[group.name][(number, *index)], rel=1e-3)
            assert 1 <= of["rank"] <= SETTINGS.top
        sample = run.first_rows(SETTINGS.sample)
        assert card["activations"]["tokens"] == run.token_count[sample].sum() == sum(card["activations"]["counts"])
        active = (p[sample] * run.token_count[sample]).sum() / run.token_count[sample].sum()
        assert card["activations"]["active"] == pytest.approx(active, rel=1e-3, abs=1e-6)
        assert {example["id"] for example in card["examples"]} <= {row["id"] for row in run.instructions}
    for category in run.categories:
        for target in ({"mlp", "shared", "routed"}, {"expert"} & run.groups.keys()):
            ranks = sorted(c["of"][category]["rank"] for c in cards if c["group"] in target and category in c["of"])
            assert ranks == ([*range(1, min(SETTINGS.top, 2 if target == {"expert"} else 6) + 1)] if target else [])


def test_neighbours_are_held_by_the_same_instructions(explored: dict[str, Any], runs: dict[str, sj.Run]) -> None:
    run = runs["moe"]
    sets = sj.open_sets(run, "excess")
    names, held = [], []
    for group in ("mlp", "shared", "routed"):
        of = run.groups[group]
        for layer in range(len(of.layers)):
            mask = sets.layer_mask(group, layer)
            for unit in range(mask.shape[1]):
                names.append((group, (layer, *map(int, np.unravel_index(unit, of.sizes)))))
                held.append(mask[:, unit])
    for card in explored["moe"]["cards"]:
        if card["group"] == "expert":
            assert all(name.count(".") == 1 and ".E" in name for name, _ in card["neighbours"])
            continue
        group, index = unit_of(card["unit"], run.groups)
        own = held[names.index((group.name, index))]
        jaccard = [(own & other).sum() / max((own | other).sum(), 1) * (name != (group.name, index))
                   for name, other in zip(names, held, strict=True)]  # fmt: skip
        expected = sorted((value for value in jaccard if value > 0), reverse=True)[: SETTINGS.neighbours]
        np.testing.assert_allclose([value for _, value in card["neighbours"]], expected, rtol=1e-3)
        for name, value in card["neighbours"]:
            found, at = unit_of(name, run.groups)
            assert jaccard[names.index((found.name, at))] == pytest.approx(value, rel=1e-3)


@pytest.mark.parametrize(("family", "case"), [("llama", "mqa_tied"), ("gemma2", None), ("gpt_neox", None)])
def test_words_are_what_the_down_column_does_to_logits(family: str, case: str | None, tmp_path: Path) -> None:
    case = case or next(iter(CASES[family]))
    source = tmp_path / "hf"
    checkpoints.save_model(source, family, **CASES[family][case])
    model, reference = convert(source, tmp_path / "model"), Reference(source, torch.float64)
    placed = place_model(model, make_placement("pmap", model.config), "float32")
    (group,) = model_groups(model.config)
    index = np.asarray([(0, 3), (1, 7), (1, 8)])
    vocabulary = model.config.vocab_size - 3
    found = output_words(placed, group, index, 5, vocabulary)
    theirs: Any = reference.model
    inner = theirs.gpt_neox if family == "gpt_neox" else theirs.model
    for (layer, neuron), words in zip(index.tolist(), found, strict=True):
        block = inner.layers[layer]
        down = (block.mlp.dense_4h_to_h if family == "gpt_neox" else block.mlp.down_proj).weight[:, neuron]
        with torch.inference_mode():
            written = block.post_feedforward_layernorm(down) if family == "gemma2" else down
            norm = inner.final_layer_norm if family == "gpt_neox" else inner.norm
            head = theirs.get_output_embeddings()
            logits = [head(norm(x)) for x in (written, torch.zeros_like(written))]
            if family == "gemma2":
                cap = theirs.config.final_logit_softcapping
                logits = [cap * torch.tanh(one / cap) for one in logits]
            change = (logits[0] - logits[1]).numpy()
        z = (change - change.mean()) / change.std()
        order = np.argsort(-z[:vocabulary])
        for tokens, expected in zip(words, (order[:5], order[::-1][:5]), strict=True):
            np.testing.assert_allclose([value for _, value in tokens], z[expected], rtol=1e-3)
            assert [token for token, _ in tokens] == expected.tolist()


@pytest.mark.parametrize("execution", [ExecutionSettings(placement="mesh:2", batch_tokens=256), EXECUTION])
def test_placements_and_repeats_agree(
    execution: ExecutionSettings, explored: dict[str, Any], runs: dict[str, sj.Run], moe: ModelDir
) -> None:
    run = runs["moe"]
    again = explore(moe, run, sj.open_units(run, "auroc"), SETTINGS, execution)
    assert again == open_explored(run, "auroc")
    if execution == EXECUTION:
        assert again == explored["moe"]
    for mine, expected in zip(again["cards"], explored["moe"]["cards"], strict=True):
        assert (mine["unit"], mine["of"], mine["frequency"]) == (
            expected["unit"],
            expected["of"],
            expected["frequency"],
        )
        for one, other in zip(mine["examples"], expected["examples"], strict=True):
            np.testing.assert_allclose(one["activations"], other["activations"], rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("settings", [
    CaptureSettings(scope="instruction", count_window=5), CaptureSettings(scope="response"),
    CaptureSettings(scope="generated", new_tokens=4), CaptureSettings(max_tokens=20, truncate=True),
], ids=["instruction", "response", "generated", "truncated"])  # fmt: skip
def test_texts_are_those_of_the_capture(
    settings: CaptureSettings, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    run = capture(llama, load_instructions(instruction_file), tmp_path / "run", settings, execution=EXECUTION)
    sj.select(run, SELECT)
    made = explore(llama, run, sj.open_units(run, "auroc"), replace(SETTINGS, neighbours=0), EXECUTION)
    for card in made["cards"]:
        group, index = unit_of(card["unit"], run.groups)
        p = np.asarray(run.frequency(group.name).read().result())[(slice(None), *index)]
        for one in card["examples"]:
            row = next(number for number, of in enumerate(run.instructions) if of["id"] == one["id"])
            assert one["frequency"] == pytest.approx(p[row], rel=1e-3)
            first, end = one["counted"]
            assert one["most"] == max(one["activations"][first:end])


def test_which_texts_are_shown() -> None:
    high = {0: 0.5, 1: 10.0, 2: 9.9, 3: -0.1, 4: 5.0, 5: 5.1, 6: 0.0, 7: 3.0, 8: 9.9}
    counted = {text: np.asarray([-0.2, value, -1.0], np.float32) for text, value in high.items()}
    assert example_texts(counted, 2) == [1, 2, 5, 7, 0]
    assert example_texts(counted, 99) == [1, 2, 8, 5, 4, 7, 0]
    assert example_texts({3: counted[3]}, 2) == []


def test_a_window_around_the_most_active_token() -> None:
    values = np.asarray([9, 0, 0, 1, 0, 0, 3, 0], np.float32)
    ids = np.arange(8, dtype=np.int32)
    one = example(values, slice(2, 8), ids, 4, str)
    assert one == {"most": 3.0, "at": 2, "tokens": ["4", "5", "6", "7"], "activations": [0.0, 0.0, 3.0, 0.0],
                   "counted": [0, 4], "left_out": [4, 0]}  # fmt: skip
    one = example(values, slice(1, 5), ids, 6, str)
    assert (one["at"], one["counted"], one["left_out"]) == (3, [1, 5], [0, 2])
    assert histogram({0: values, 1: values}, [1])["tokens"] == 8


def test_the_base_model_stands_beside_the_tuned_one(
    llama: ModelDir, runs: dict[str, sj.Run], instruction_file: Path, tmp_path: Path
) -> None:
    run = runs["llama"]
    other = capture(llama, load_instructions(instruction_file), tmp_path / "product",
                    CaptureSettings(convention="product"), execution=EXECUTION)  # fmt: skip
    shutil.copytree(run.location, tmp_path / "run")
    made = explore(llama, tmp_path / "run", "auroc", SETTINGS, EXECUTION, other=tmp_path / "product")
    assert made["other"]["run_digest"] == other.digest
    counts = {name: other.frequency(name).read().result() for name in other.groups}
    unlike = 0
    for card in made["cards"]:
        group, index = unit_of(card["unit"], run.groups)
        p = counts[group.name][(slice(None), *index)].astype(float)
        for number, category in enumerate(run.categories):
            assert card["other"][category] == pytest.approx(p[run.category == number].mean(), rel=1e-3, abs=1e-6)
            unlike += card["other"][category] != card["frequency"][category][0]
    assert unlike
    summary = write_cards(sj.open_run(tmp_path / "run"), "auroc", tmp_path / "out")
    assert summary["other"] == made["other"]
    row = read_table(tmp_path / "out/card_frequency.csv")[0]
    assert float(row["frequency_other"]) == made["cards"][0]["other"][row["category"]]
    with pytest.raises(InputError, match=r"moe: has other units than .* \(mlp"):
        explore(llama, run, "auroc", SETTINGS, EXECUTION, other=runs["moe"])
    rows = instruction_file.read_text(encoding="utf-8").splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(rows[1:]), encoding="utf-8")
    capture(llama, load_instructions(tmp_path / "fewer.jsonl"), tmp_path / "fewer", execution=EXECUTION)
    with pytest.raises(InputError, match="fewer: was captured from other instructions"):
        explore(llama, run, "auroc", SETTINGS, EXECUTION, other=tmp_path / "fewer")


def test_what_is_refused(llama: ModelDir, moe: ModelDir, runs: dict[str, sj.Run], instruction_file: Path, tmp_path: Path
                         ) -> None:  # fmt: skip
    units = sj.open_units(runs["llama"], "auroc")
    with pytest.raises(InputError, match="was captured from another model"):
        explore(moe, runs["llama"], units)
    with pytest.raises(InputError, match=r"explored/other\.json: the units 'other' are not explored"):
        open_explored(runs["llama"], "other")
    kept = capture(llama, load_instructions(instruction_file), tmp_path / "sets", CaptureSettings(keep="sets"),
                   Selection("frequency"), execution=EXECUTION)  # fmt: skip
    with pytest.raises(InputError, match="keeps the sets of mlp, not its counts"):
        explore(llama, kept, units)
    with pytest.raises(InputError, match="units 'auroc' were chosen by another run"):
        explore(llama, runs["llama"], sj.open_units(runs["moe"], "auroc"))
    for other in (replace(units, name=""), replace(units, mask={"mlp": np.zeros_like(units.mask["mlp"])})):
        with pytest.raises(InputError, match="hold no unit, or are not stored beside the run"):
            explore(llama, runs["llama"], other)
    for change, message in (({"top": 0}, "top must be positive, got 0"), ({"words": -1}, "words must not be negative")):
        with pytest.raises(InputError, match=message):
            explore(llama, runs["llama"], units, replace(SETTINGS, **change))
    (Path(runs["llama"].location) / "explored").mkdir(exist_ok=True)
    (Path(runs["llama"].location) / "explored/old.json").write_text('{"schema_version": 0}')
    with pytest.raises(InputError, match="not of the schema that this version reads; run explore again"):
        open_explored(runs["llama"], "old")
    (Path(runs["llama"].location) / "explored/other.json").write_text('{"schema_version": 2, "run_digest": "x"}')
    with pytest.raises(InputError, match="was made of another run"):
        open_explored(runs["llama"], "other")
