"""Greedy continuation against transformers without a cache, which reads the whole text for every token."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

from sparcom_jax.batches.packing import alike
from sparcom_jax.batches.tokens import TokenizedSet
from sparcom_jax.capture import generate as generation
from sparcom_jax.capture.capture import capture
from sparcom_jax.capture.generate import GenerateSettings, generate
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.model import place_model
from sparcom_jax.engine.placement import make_placement
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet, load_instructions
from sparcom_jax.store.arrays import Store
from sparcom_jax.store.run import open_run
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.capture.test_capture import arrays, same
from tests.families import CASES

LENGTHS = (50, 3, 17, 1, 64)
NEW = 8
CONTINUED = {name: next(iter(cases)) for name, cases in CASES.items()} | {
    "llama": "rope_yarn", "gemma3_text": "ropes", "phi3": "longrope", "qwen3": "windows",
}  # fmt: skip
GREEDY = CaptureSettings(rows_per_block=16, scope="generated", new_tokens=NEW)


def prompts(lengths: tuple[int, ...] = LENGTHS) -> TokenizedSet:
    random = np.random.default_rng(2)
    ids = [random.integers(2, checkpoints.VOCAB, length, np.int32) for length in lengths]
    sizes = np.asarray(lengths, np.int32)
    return TokenizedSet(ids, np.zeros_like(sizes), sizes, {})


def greedy(reference: Reference, ids: np.ndarray, count: int, stop: tuple[int, ...] = ()) -> list[int]:
    """The plain way: no cache, one whole forward pass for every token."""
    made: list[int] = []
    while len(made) < count and not (made and made[-1] in stop):
        logits = reference.run(np.concatenate([ids, np.asarray(made, np.int32)]), {})["logits"][-1]
        made.append(int(np.argmax(logits)))
    return made


class Continuing:
    """Continues texts with one model again and again, cut over four devices where its heads allow it."""

    def __init__(self, model: ModelDir) -> None:
        placement = make_placement("mesh:4" if model.config.kv_heads == 4 else "mesh:1", model.config)
        self.model = place_model(model, placement, "float32")

    def __call__(self, place: Path, texts: TokenizedSet, rows_per_block: int = 8) -> TokenizedSet:
        settings = GenerateSettings(NEW, (), 512, rows_per_block)
        names = [f"r{row}" for row in range(len(texts.ids))]
        return generate(lambda: self.model, texts, names, Store(place), settings)


def tails(texts: TokenizedSet) -> list[list[int]]:
    return [ids[texts.counting(row)].tolist() for row, ids in enumerate(texts.ids)]


@pytest.mark.parametrize(("family", "case"), CONTINUED.items())
def test_continuations_equal_those_of_transformers(family: str, case: str, tmp_path: Path) -> None:
    directory = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][case])
    reference = Reference(directory, torch.float64)
    texts = prompts((50, 3, 17, 1, 49) if case == "longrope" else LENGTHS)
    made = Continuing(convert(directory, tmp_path / "model"))(tmp_path / "run", texts)
    assert tails(made) == [greedy(reference, ids, NEW) for ids in texts.ids]
    assert made.first_counted.tolist() == texts.lengths.tolist()


@pytest.fixture(scope="module")
def stopping(tmp_path_factory: pytest.TempPathFactory, instruction_file: Path) -> tuple[Path, ModelDir, int]:
    """A checkpoint that names two more tokens to stop at, the first of which it comes to."""
    directory = tmp_path_factory.mktemp("stop") / "hf"
    checkpoints.qwen2_moe(directory, mlp_only_layers=[0], num_hidden_layers=4)
    ids = convert(directory, directory.with_name("any")).tokenizer()(rows(instruction_file)[0]["instruction"])
    third = greedy(Reference(directory), np.asarray(ids["input_ids"], np.int32), 3)[2]
    (directory / "generation_config.json").write_text(json.dumps({"eos_token_id": [third, 7]}))
    return directory, convert(directory, directory.with_name("model")), third


def rows(file: Path) -> list[dict[str, Any]]:
    """Instructions of at most 64 tokens, which share a batch."""
    return [row for row in load_instructions(file).rows if len(row["instruction"]) < 120][:10]


@pytest.mark.parametrize("placement", ["pmap", "mesh:2"])
def test_the_capture_counts_what_was_generated(
    placement: str, stopping: tuple[Path, ModelDir, int], instruction_file: Path, tmp_path: Path
) -> None:
    directory, model, third = stopping
    stop = tuple(sorted({third, 7, 1}))
    assert model.stop_token_ids() == stop
    few = InstructionSet("rows", rows(instruction_file), ["A", "B", "C"])
    run = capture(model, few, tmp_path / "run", GREEDY, execution=ExecutionSettings(placement=placement))
    reference = Reference(directory)
    token, length = run.read("generated/token"), run.read("generated/length")
    prompted = [np.asarray(model.tokenizer()(row["instruction"])["input_ids"], np.int32) for row in few.rows]
    expected = [greedy(reference, ids, NEW, stop) for ids in prompted]
    assert [row[:count].tolist() for row, count in zip(token, length, strict=True)] == expected
    assert len(expected[0]) <= 3
    assert run.token_count.tolist() == [len(made) for made in expected]
    for row, made in enumerate(expected[:4]):
        ids = np.concatenate([prompted[row], np.asarray(made, np.int32)])
        gates, _ = reference.neurons("model.layers.0.mlp")
        gate = reference.run(ids, {"gate": gates})["gate"][-len(made) :]
        assert np.abs(run.read("mlp/positive_count")[row, 0].astype(int) - (gate > 0).sum(0)).sum() <= 1
    recorded = run.manifest.capture
    assert (recorded["scope"], recorded["new_tokens"], recorded["stop_token_ids"]) == ("generated", NEW, list(stop))
    assert run.manifest.tokens.counted == sum(map(len, expected))
    assert [row["generated"] for row in run.instructions] == [model.tokenizer().decode(made) for made in expected]
    tree = run.dataset()
    assert tree["generated"].token.dims == ("instruction", "new_token")


def test_goes_on_after_a_kill(
    llama: ModelDir, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = InstructionSet("rows", rows(instruction_file), ["A", "B", "C"])
    blocks = dataclasses.replace(GREEDY, rows_per_block=4)
    whole = capture(llama, few, tmp_path / "whole", blocks)
    original, calls = generation.continue_block, []

    def stop_at_second(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(generation, "continue_block", stop_at_second)
    with pytest.raises(KeyboardInterrupt):
        capture(llama, few, tmp_path / "run", blocks)
    with pytest.raises(InputError, match="run: capture is incomplete: run the same capture command again"):
        open_run(tmp_path / "run").require_complete()
    with pytest.raises(InputError, match=r"another capture.new_tokens \(8, now 9\)"):
        capture(llama, few, tmp_path / "run", dataclasses.replace(blocks, new_tokens=9))
    run = capture(llama, few, tmp_path / "run", blocks)
    assert len(calls) == 4  # of three blocks one was there
    same(whole, run)
    for name in ("generated/token", "generated/length"):
        np.testing.assert_array_equal(run.read(name), whole.read(name))
    assert arrays(run)["instruction/token_count"].tolist() == run.read("generated/length").tolist()


def test_waits_for_the_other_processes(
    llama: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts, continuing = prompts((9, 5, 60, 1, 30)), Continuing(llama)
    alone, placed = continuing(tmp_path / "alone", texts, 2), []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1 - len(placed))

    def other(_: float) -> None:
        placed.append(1)
        continuing(tmp_path / "run", texts, 2)

    monkeypatch.setattr(time, "sleep", other)
    assert tails(continuing(tmp_path / "run", texts, 2)) == tails(alone)
    assert placed == [1]
    line = (
        "generate: waiting for other processes, to which 3 instructions are left, for up to 1800 s in which none comes"
    )
    assert line in capsys.readouterr().err


def test_a_window_over_what_was_generated(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    """Counts the last tokens; the rows keep the whole continuation, whatever characters are in it."""
    few = [row | {"note": "line\u2028end"} for row in rows(instruction_file)[:3]]
    run = capture(llama, InstructionSet("rows", few, ["A", "B", "C"]), tmp_path / "run",
                  dataclasses.replace(GREEDY, count_window=3))  # fmt: skip
    length, token = run.read("generated/length"), run.read("generated/token")
    assert run.token_count.tolist() == np.minimum(length, 3).tolist()
    decode = llama.tokenizer().decode
    assert [row["generated"] for row in run.instructions] == [
        decode(ids[:count]) for ids, count in zip(token, length, strict=True)
    ]
    assert run.instructions[0]["note"] == "line\u2028end"
    taken = InstructionSet("rows", [row | {"generated": ""} for row in few], ["A", "B", "C"])
    with pytest.raises(InputError, match="rows: field 'generated' is the capture's own: r"):
        capture(llama, taken, tmp_path / "taken", GREEDY)


@pytest.mark.parametrize(("family", "fields"), [("llama", {}), ("qwen2_moe", {"num_hidden_layers": 2})])
def test_one_token_up_to_the_limit(family: str, fields: dict, instruction_file: Path, tmp_path: Path) -> None:
    """The longest prompt and its one token are as long as the model can read; nothing is read with the cache."""
    few = InstructionSet("rows", rows(instruction_file), ["A", "B", "C"])
    tokenizer = checkpoints.save_model(tmp_path / "any", family, **fields)
    ids = [
        np.asarray(ids, np.int32)
        for ids in convert(tokenizer, tmp_path / "other").tokenizer()([row["instruction"] for row in few.rows])[
            "input_ids"
        ]
    ]
    fields = fields | {"max_position_embeddings": max(map(len, ids)) + 1}
    directory = checkpoints.save_model(tmp_path / "hf", family, **fields)
    model, reference = convert(directory, tmp_path / "model"), Reference(directory)
    run = capture(model, few, tmp_path / "run", dataclasses.replace(GREEDY, new_tokens=1))
    assert run.read("generated/token").tolist() == [greedy(reference, text, 1) for text in ids]
    assert run.token_count.tolist() == run.read("generated/length").tolist() == [1] * len(ids)
    with pytest.raises(
        InputError, match=r"prompt and 2 new tokens are longer than \d+ tokens, the model's limit: r\d+ \(\d+\); leave"
    ):
        capture(model, few, tmp_path / "longer", dataclasses.replace(GREEDY, new_tokens=2))


@pytest.mark.parametrize(("change", "message"), [
    ({"new_tokens": 0}, r"capture\.new_tokens must be positive for scope generated, got 0"),
    ({"scope": "prompt"}, r"capture\.new_tokens 8 is for scope generated, not prompt"),
    ({"truncate": True}, r"capture\.truncate would cut off"),
    ({"new_tokens": 1000}, r"prompt and 1000 new tokens are longer than 1024 tokens, the model's limit: r0 \(\d+\)"),
    ({"max_tokens": 190}, r"prompt and 8 new tokens are longer than 190 tokens, the limit that .* sets: r33 \(197\)"),
    ({"new_tokens": -1}, r"capture\.new_tokens must not be negative"),
])  # fmt: skip
def test_bad_settings(change: dict, message: str, llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        capture(llama, load_instructions(instruction_file), tmp_path / "run", dataclasses.replace(GREEDY, **change))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("family", "case", "message"), [
    ("llama", "rope_dynamic", r"40 new tokens lead past \d+ tokens, where rope 'dynamic' changes the angle .*: r0"),
    ("phi3", "longrope", r"40 new tokens lead past 64 tokens, where rope 'longrope' changes the angle .*: r"),
])  # fmt: skip
def test_angles_that_would_change(family: str, case: str, message: str, instruction_file: Path, tmp_path: Path) -> None:
    model = convert(checkpoints.save_model(tmp_path / "hf", family, **CASES[family][case]), tmp_path / "model")
    with pytest.raises(InputError, match=message):
        capture(
            model, load_instructions(instruction_file), tmp_path / "run", dataclasses.replace(GREEDY, new_tokens=40)
        )


@pytest.mark.parametrize(("content", "message"), [
    ('{"eos_token_id": "</s>"}', "eos_token_id '</s>' is not a token of the model"),
    ('{"eos_token_id": [1, 512]}', "eos_token_id 512 is not a token of the model"),
    ("[", "generation_config.json: not a JSON object"),
])  # fmt: skip
def test_stop_tokens_that_are_none(content: str, message: str, llama: ModelDir, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(llama.path, tmp_path / "model")
    (tmp_path / "model" / "generation_config.json").write_text(content)
    with pytest.raises(InputError, match=message):
        dataclasses.replace(llama, path=tmp_path / "model").stop_token_ids()


def test_bins_of_like_texts() -> None:
    lengths = np.random.default_rng(0).integers(1, 300, 50).astype(np.int32)
    bins = alike(lengths, 10, 30, 512)
    assert sorted(text for one in bins for text in one.texts) == list(range(10, 40))
    for one in bins:
        most = one.shape.slots // one.shape.rows
        assert len(one.texts) <= one.shape.rows
        assert max(most // 2 * (most > 64), 0) < min(lengths[list(one.texts)])
        assert max(lengths[list(one.texts)]) <= most
        assert one.shape.slots <= 512
