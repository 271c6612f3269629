"""Neurons that take the values of other instructions' tokens, against a transformers model in which they really do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.texts import donor_rows, texts_of
from sparcom_jax.causal.values import DONORS, donor_of_slots, draw_tokens, measure_donors
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.verify.reference import Reference
from tests.causal.references import products, reference_nll, table

SETTINGS = AblationSettings(how="resample", draws=1, per_category=2, bootstraps=2, seed=5)
EXECUTION = ExecutionSettings(batch_tokens=512)


def test_tokens_are_drawn_of_every_text_of_the_category_before_any_comes_again() -> None:
    random = np.random.default_rng(0)
    lengths, category = random.integers(1, 9, 40).astype(np.int32), np.repeat([0, 1], (37, 3)).astype(np.uint8)
    drawn = draw_tokens(lengths, category, 2, 12, 1)
    for number in range(2):
        texts, positions = drawn[number].T
        assert (category[texts] == number).all()
        assert ((positions >= 0) & (positions < lengths[texts])).all()
    assert len(np.unique(drawn[0, :, 0])) == 12
    np.testing.assert_array_equal(np.bincount(drawn[1, :, 0])[37:], [4, 4, 4])
    assert not np.array_equal(drawn, draw_tokens(lengths, category, 2, 12, 2))


def test_each_token_takes_one_of_the_values_whatever_batch_it_is_in() -> None:
    slots = donor_of_slots(3, 7, 8000, 16)
    np.testing.assert_array_equal(slots[:50], donor_of_slots(3, 7, 50, 16))
    np.testing.assert_allclose(np.bincount(slots) / 8000, 1 / 16, atol=0.02)
    assert not np.array_equal(slots, donor_of_slots(3, 8, 8000, 16))


def test_neurons_take_the_values_of_other_instructions(
    llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path
) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=30, control_length=False))
    summary = ablate(llama, run, units, tmp_path / "out", SETTINGS, EXECUTION)
    off, reference = 1, Reference(hf_llama)
    measured = {row["id"] for row in table(tmp_path / "out" / "instruction_effects.csv")}
    rows = [row for row, one in enumerate(run.instructions) if one["id"] not in measured]
    lengths = np.asarray([len(products(reference, llama, run.instructions[row])) for row in rows], np.int32)
    drawn = draw_tokens(lengths, run.category[rows], 3, DONORS // 2, SETTINGS.seed)
    donors = np.stack([products(reference, llama, run.instructions[rows[text]])[position]
                       for category in (0, 2) for text, position in drawn[category]])  # fmt: skip
    mask = torch.tensor(units.mask["mlp"][off])

    def nll(row: int) -> float:
        taken = donors[donor_of_slots(SETTINGS.seed, row, len(products(reference, llama, run.instructions[row])), 16)]

        def hook_of(layer: int) -> Any:
            def hook(_: Any, inputs: Any) -> Any:
                return (torch.where(mask[layer], torch.tensor(taken[:, layer]), inputs[0]),)

            return hook

        hooks = [layer.mlp.down_proj.register_forward_pre_hook(hook_of(index))
                 for index, layer in enumerate(reference.model.model.layers)]  # fmt: skip
        (found,) = reference_nll(reference, llama, [run.instructions[row]])
        for hook in hooks:
            hook.remove()
        return found

    scored = [[row for row, one in enumerate(run.instructions) if one["id"] in measured and run.category[row] == index]
              for index in range(3)]  # fmt: skip
    delta = [np.mean([nll(row) for row in of]) - base for of, base in zip(scored, summary["baseline"], strict=True)]
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(summary["targets"]["neurons"]["delta"][off], delta, atol=2e-4)


def test_values_of_routed_neurons_are_of_tokens_that_their_expert_gets(
    moe: ModelDir, hf_moe: Path, instruction_file: Path, tmp_path: Path
) -> None:
    """In the order of the draw; where there are too few, they come again."""
    run = capture(moe, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    rows = np.arange(24)
    texts, category = texts_of(moe, run, rows), run.category[rows]
    placed = place_model(moe, make_placement("pmap", moe.config), "float32")
    found, again = (
        measure_donors(placed, texts, category, 3, [str(row) for row in rows], slots, 4) for slots in (512, 256)
    )
    assert found.variants == DONORS
    reference, kept = Reference(hf_moe), DONORS // 2
    drawn = draw_tokens(texts.lengths, category, 3, kept * 4, 4)  # 8 experts, of which 2 for a token
    (layers,) = {run.groups["routed"].layers}
    wanted: dict[tuple[int, int, int], list[np.ndarray]] = {}
    for of in range(3):
        for text, position in drawn[of]:
            hooked = {str(layer): f"{reference.layer(layer)}.mlp:in" for layer in layers}
            read = reference.run(texts.ids[text], hooked)
            for index, layer in enumerate(layers):
                routed = reference.routed(read[str(layer)], f"{reference.layer(layer)}.mlp")
                for expert, product in zip(routed.chosen[position], routed.product[position], strict=True):
                    wanted.setdefault((of, index, int(expert)), []).append(product)
    for (of, index, expert), values in wanted.items():
        expected = [values[place % min(len(values), kept)] for place in range(kept)]
        np.testing.assert_allclose(found.values["routed"][of, index, :, expert], expected, atol=1e-4)
    absent = {*np.ndindex(3, len(layers), 8)} - wanted.keys()
    for of, index, expert in absent:
        assert not found.values["routed"][of, index, :, expert].any()
    for group in ("mlp", "shared", "routed"):
        np.testing.assert_allclose(found.values[group], again.values[group], atol=1e-4)
        others = found.of(1)[group]
        np.testing.assert_array_equal(others[:, :kept], found.values[group][0])
        np.testing.assert_array_equal(others[:, kept:], found.values[group][2])


def test_devices_that_share_a_model_agree(moe: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    """On values of other instructions, with experts forced."""
    run = capture(moe, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=20, expert_size=1, control_length=False))
    settings = replace(SETTINGS, experts="force")
    whole, shared = (
        ablate(moe, run, units, tmp_path / placement, settings, replace(EXECUTION, placement=placement))["targets"]
        for placement in ("pmap", "mesh:2")
    )
    for target, found in whole.items():
        assert np.abs(found["delta"]).max() > 1e-3
        np.testing.assert_allclose(found["delta"], shared[target]["delta"], atol=2e-4)


def test_values_that_nobody_could_give_are_refused(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    data = sj.load_instructions(instruction_file)
    run = capture(llama, data, tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=30, control_length=False))
    with pytest.raises(InputError, match="how resample takes values of instructions that are not measured, and A, B, C "
                                         "has none with a response; measure fewer"):  # fmt: skip
        ablate(llama, run, units, tmp_path / "out", replace(SETTINGS, measured="all", per_category=0), EXECUTION)
    alone = InstructionSet("alone", [row for row in data.rows if row["category"] == "A"], ["A"])
    run = capture(llama, alone, tmp_path / "alone", execution=EXECUTION)
    with pytest.raises(InputError, match="takes values of other categories, and there is only one"):
        donor_rows(run, np.arange(2))
