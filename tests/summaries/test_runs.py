"""Summaries of what is written into a run, and of models and instruction files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.instructions.card import make_card, render
from sparcom_jax.store.explored import open_explored
from sparcom_jax.store.run import count_done
from sparcom_jax.store.schema import vector
from sparcom_jax.summaries.instructions import judged
from sparcom_jax.summaries.models import converted, verified
from sparcom_jax.summaries.runs import attributed, captured, chosen, explored, identified
from sparcom_jax.units.groups import Group
from sparcom_jax.units.names import unit_of
from sparcom_jax.units.unit_set import UnitSet
from tests.synthetic import MIXED, make_run, random_masks, random_values, write_attribution, write_sets
from tests.synthetic_results import EVIL, write_exploration

LABELS = [i % 3 for i in range(72)]


@pytest.fixture
def run(tmp_path: Path) -> sj.Run:
    return make_run(tmp_path / "run", LABELS, groups=MIXED)


def test_capture(run: sj.Run) -> None:
    shown = captured(run, before=12, seconds=20.0)
    assert shown.title == f"capture: {run.location}"
    tokens = int(run.token_count.sum())
    assert dict(shown.facts) == {
        "model": "hub/made-up, in float32 on cpu",
        "instructions": "72 of 72 (CLS 24, QA 24, SUM 24)",
        "tokens": f"{tokens:,} fed, {tokens:,} of them counted; 100.0% of the slots filled",
        "units": "mlp 19, shared 20, routed 78, expert 6",
        "took": "20.0 s, 3.00 instructions/s",
    }
    assert (shown.tables, shown.warnings) == ([], [])
    assert [words[0] for words in shown.next] == ["sparcom identify", "sparcom select"]
    assert dict(captured(run, before=72, seconds=0.5).facts)["took"] == "0.500 s"


def test_a_capture_that_is_unfinished_and_one_that_cut_texts_off(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, done=False)
    run.store.create_array(vector("instruction/done", "uint8", "instruction", 72))[:40].write(1).result()
    names = {f"i{at}": 9 for at in range(7)}
    manifest = replace(run.manifest, instructions=replace(run.manifest.instructions, truncated=names))
    run.store.write_group(attributes=manifest.to_json())
    shown = captured(sj.open_run(run.location), before=0, seconds=8.0)
    assert dict(shown.facts)["instructions"] == "40 of 72"
    assert dict(shown.facts)["took"] == "8.00 s, 5.00 instructions/s"
    left, cut = shown.warnings
    assert left.startswith("Left: 32 of 72; run the same command again")
    assert cut == "Too long and cut off: 7 of 72 texts (i0, i1, i2, i3, i4 and 2 more)."
    assert not shown.next


def test_what_was_done_before(run: sj.Run, tmp_path: Path) -> None:
    assert count_done(run.location) == 72
    assert count_done(tmp_path / "nowhere") == 0
    assert not (tmp_path / "nowhere").exists()


def test_identify(run: sj.Run) -> None:
    masks = random_masks(run)
    masks["mlp"][:3] = False
    write_sets(run, masks)
    shown = identified(sj.open_sets(run, "excess"))
    (table,) = shown.tables
    assert table.columns == ["category", "instructions", "mlp of 19", "shared of 20", "routed of 78", "expert of 6"]
    for at, row in enumerate(table.rows):
        means = [mask[run.category == at].reshape(24, -1).sum(axis=1).mean() for mask in masks.values()]
        assert row[:2] == [run.categories[at], 24]
        np.testing.assert_allclose([float(str(value)) for value in row[2:]], means)
    assert shown.warnings == ["mlp: S(i) is empty for 3 of 72 instructions."]
    assert dict(shown.facts)["by"] == "excess, epsilon 0.05, ties include"
    write_sets(run, random_masks(run), "strict", selector="threshold", threshold=0.9, ties="drop")
    shown = identified(sj.open_sets(run, "strict"))
    assert dict(shown.facts)["by"] == "threshold, threshold 0.9, ties drop"
    assert shown.next[0][1:] == [f"--run={run.location}", "--set=strict", "--output=DIR"]


def test_select(run: sj.Run) -> None:
    settings = sj.SelectSettings(selector="difference,average_precision", size=5, expert_size=2, control_length=False)
    made = sj.select(run, settings)
    shown = chosen(run, made)
    assert shown.title == f"select: {run.location}, units difference, average_precision"
    assert dict(shown.facts)["chosen by"] == "36 of 72 instructions"
    for units, table in zip(made, shown.tables, strict=True):
        assert table.title == units.name
        assert table.columns == ["category", "mlp", "shared", "routed", "expert", "first neurons", "first experts"]
        for at, (category, *counts, neurons, experts) in enumerate(table.rows):
            assert category == run.categories[at]
            assert counts == [int(units.counts([group])[at]) for group in ("mlp", "shared", "routed", "expert")]
            for names, groups in ((neurons, ("mlp", "shared", "routed")), (experts, ("expert",))):
                found = [scored(units, name, at) for name in str(names).split(", ")]
                best = sorted((float(value) for group in groups
                               for value in units.score[group][at][units.mask[group][at]]), reverse=True)  # fmt: skip
                assert found == best[: len(found)]
                assert len(found) == min(3, len(best))
    assert not shown.next
    (one,) = sj.select(run, replace(settings, selector="difference"), name="mine")
    assert [words[0] for words in chosen(run, [one]).next] == ["sparcom ablate", "sparcom explore"]
    assert chosen(run, [one]).next[0][1:] == ["--model=models/made-up", f"--run={run.location}", "--units=mine",
                                              "--output=DIR"]  # fmt: skip


def scored(units: UnitSet, name: str, category: int) -> float:
    group, index = unit_of(name, units.groups)
    assert units.mask[group.name][category][index]
    return float(units.score[group.name][category][index])


def test_select_of_a_category_without_units(run: sj.Run) -> None:
    group = Group("mlp", (0,), ("neuron",), (4,))
    mask = np.zeros((3, 1, 4), bool)
    mask[0, 0, 2] = True
    origin = {"selector": "mine", "size": None, "half": None, "seed": None}
    units = UnitSet(run.categories, {"mlp": group}, {"mlp": mask.astype(np.float32)}, {"mlp": mask}, origin, "mine")
    shown = chosen(run, [units])
    assert shown.warnings == ["mine: no neurons of QA, SUM."]
    assert [list(row) for row in shown.tables[0].rows] == [["CLS", 1, "L0.N2"], ["QA", 0, ""], ["SUM", 0, ""]]
    assert dict(shown.facts)["chosen by"] == "all 72 instructions"


def test_attribute(run: sj.Run) -> None:
    shown = attributed(write_attribution(run, random_values(run), per_category=4))
    assert shown.title == f"attribute: {run.location}/attribution/gradient"
    assert dict(shown.facts) == {
        "by": "gradient", "responses": "12 of 72 (CLS 4, QA 4, SUM 4)",
        "units": "mlp 19, shared 20, routed 78, expert 6",
    }  # fmt: skip
    assert [words[0] for words in shown.next] == ["sparcom select", "sparcom align"]


def test_explore(tmp_path: Path) -> None:
    categories = (EVIL, "\"q\" 'r' \u2028", "SUM")
    run = make_run(tmp_path / "run", LABELS, groups=MIXED, categories=categories)
    write_exploration(run, tmp_path / "result")
    shown = explored(f"{run.location}/explored/auroc.json", open_explored(run, "auroc"))
    rows = [list(row) for row in shown.tables[0].rows]
    first = [EVIL, 2, "L0.N2", 0.7, 0.5, 0.125, ""]
    assert rows[0] == first
    assert rows[1] == [categories[1], 1, "L1.E2", 0.6, 0.25, 0.25, ""]
    assert rows[2] == ["SUM", 1, "L0.N1", 0.8, 0.0, 0.375, f"{EVIL!r} ' a'"]
    assert shown.warnings == ["Active at no token that was read: L0.N2."]
    assert dict(shown.facts) == {"cards": "3, of 2 neurons and 1 experts", "texts read": "9"}


def test_convert(llama: ModelDir, moe: ModelDir) -> None:
    shown = converted(moe, "models/moe")
    assert shown.title == "convert: models/moe"
    assert moe.config.experts is not None
    experts = f"{moe.config.experts.count} experts, {moe.config.experts.per_token} a token"
    assert dict(shown.facts)["model"] == (f"{moe.manifest['family']}, {moe.manifest['parameters']:,} parameters in "
                                          f"{moe.config.num_layers} layers, {experts}")  # fmt: skip
    assert "experts" not in dict(converted(llama, "m").facts)["model"]
    made = {"dequantised": {"scheme": "gguf", "tensors": {"Q4_1": 210}, "dtype": "float32"}, "not_read": ["a", "b"],
            "tensors_left": ["x"], "adapter": {"path": "lora", "tensors": 8}}  # fmt: skip
    odd = replace(llama, manifest=llama.manifest | {"conversion": made}, config=replace(llama.config, head=False))
    shown = converted(odd, "m")
    assert dict(shown.facts)["dequantised"] == "from gguf (Q4_1 210 tensors)"
    assert dict(shown.facts)["adapter"] == "lora, merged into 8 tensors"
    assert [warning.partition(":")[0] for warning in shown.warnings] == [
        "Fields of config.json that transformers does not read either",
        "Tensors of the checkpoint that are not part of the model", "The model has no output head",
    ]  # fmt: skip


def test_verify() -> None:
    layers = [{"layer": at, "group": group, "activations": 1000, "flips": at, "tokens": 10, "rerouted": at}
              for at, group in enumerate(("mlp", "routed", "routed"))]  # fmt: skip
    outcome: dict[str, Any] = {"dtype": "float32", "texts": 60, "tokens": 5000, "logits_error": 1.5e-5,
                               "layers": layers, "departure": None, "faults": []}  # fmt: skip
    shown = verified("models/m", outcome)
    assert [list(row) for row in shown.tables[0].rows] == [
        ["mlp", 1, 1000, 0, 0.0, "L0", 0], ["routed", 2, 2000, 3, 0.0015, "L2", 3],
    ]  # fmt: skip
    assert dict(shown.facts)["outcome"] == "agrees, in float32"
    assert shown.warnings == []
    shown = verified("models/m", outcome | {"faults": ["x"], "departure": {"module": "layers.1", "error": 0.25}})
    assert dict(shown.facts)["outcome"] == "falls short, in float32"
    assert shown.warnings == ["x.", "First module that departs: layers.1 (error 0.250)."]
    assert dict(verified("m", outcome | {"dtype": "bfloat16"}).facts)["outcome"] == "measured, not judged, in bfloat16"


def test_hexainst() -> None:
    instructions = sj.load_hexainst()
    shown = judged("hexainst", make_card(instructions, run_code=False))
    sizes = ", ".join(f"{name} 200" for name in instructions.categories)
    assert dict(shown.facts)["rows"] == f"1,200 ({sizes})"
    assert dict(shown.facts)["rules"] == "all kept"
    assert dict(shown.facts)["responses"] == "0 at fault, their code not run"
    assert shown.warnings == []
    few = replace(instructions, rows=instructions.rows[:30], categories=instructions.categories[:1])
    card = make_card(few, run_code=False)
    assert card.faults
    assert judged("few.jsonl", card).warnings == [f"{fault}." for fault in card.faults]


def test_the_card_itself_is_text_that_a_terminal_does_not_act_on() -> None:
    instructions = sj.load_hexainst()
    rows = [row | {"category": "\x1b[31mA\n"} for row in instructions.rows[:30]]
    shown = render(make_card(replace(instructions, rows=rows, categories=["\x1b[31mA\n"]), run_code=False))
    assert "\\x1b[31mA\\n" in shown
    assert all(one.isprintable() or one == "\n" for one in shown)
