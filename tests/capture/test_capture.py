"""The capture against forward hooks, across placements and batch shapes, and through interruptions."""

import dataclasses
import json
import resource
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sparcom_jax.batches.templates import make_template
from sparcom_jax.batches.tokens import Limit, Reader, tokenize_prompts, tokenize_responses
from sparcom_jax.capture import capture as capture_module
from sparcom_jax.capture.blocks import Blocks
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet, load_instructions
from sparcom_jax.store.lock import only_writer
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.units.groups import model_groups
from sparcom_jax.verify.reference import Reference
from tests import oracles

SMALL = CaptureSettings(rows_per_block=16)
capture = partial(capture_module.capture, execution=ExecutionSettings(batch_tokens=512))


def arrays(run: Run) -> dict[str, np.ndarray]:
    names = [f"{group}/positive_count" for group in run.manifest.groups]
    if "routed" in run.groups:
        names += ["routed/selected_count", "routed/gate_sum"]
    return {name: run.read(name) for name in [*names, "instruction/token_count", "instruction/category"]}


def same(first: Run, second: Run) -> None:
    for name, values in arrays(first).items():
        np.testing.assert_array_equal(values, arrays(second)[name], err_msg=name)


def token_ids(model: ModelDir, file: Path) -> list[np.ndarray]:
    tokenizer = model.tokenizer()
    return [
        np.asarray(tokenizer(json.loads(line)["instruction"])["input_ids"]) for line in file.read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def runs(llama: ModelDir, moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    root, instructions = tmp_path_factory.mktemp("runs"), load_instructions(instruction_file)
    return {name: capture(model, instructions, root / name, SMALL) for name, model in (("llama", llama), ("moe", moe))}


@pytest.mark.parametrize("name", ["llama", "moe"])
@pytest.mark.parametrize(("convention", "window"), [("gate", 0), ("product", 0), ("gate", 5)])
def test_counts_equal_forward_hooks(
    name: str, convention: str, window: int, request: pytest.FixtureRequest, runs: dict[str, Run],
    instruction_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    model: ModelDir = request.getfixturevalue(name)
    settings = dataclasses.replace(SMALL, convention=convention, count_window=window, value_statistics=window > 0)
    run = runs[name] if settings == SMALL else capture(model, load_instructions(instruction_file), tmp_path, settings)
    ids = token_ids(model, instruction_file)
    layers = {group.name: list(group.layers) for group in model_groups(model.config)}
    experts = model.config.experts.count if model.config.experts else 0
    reference = Reference(request.getfixturevalue(f"hf_{name}"))
    expected = oracles.capture_counts(reference, ids[:12], layers, experts, window, convention,
                                      value_statistics=settings.value_statistics)  # fmt: skip
    for array, counts in expected.items():
        mine = run.read(array)[:12]
        if array in ("routed/gate_sum", "routed/norm_sum"):
            np.testing.assert_allclose(mine, counts, atol=1e-4 * max(counts.max(), 1))
        else:
            # A sign may flip where a pre-activation is within rounding of zero: at most one in 1e5.
            flips = np.abs(mine.astype(int) - counts).sum()
            assert flips <= 1e-5 * counts.size * np.mean([len(text) for text in ids[:12]]), array
    lengths = [len(text) for text in ids]
    np.testing.assert_array_equal(run.token_count, np.minimum(lengths, window) if window else lengths)


@pytest.mark.parametrize("name", ["llama", "moe"])
@pytest.mark.parametrize(("execution", "rows_per_block", "sharing"), [
    (ExecutionSettings(batch_tokens=1024), 64, 1),
    (ExecutionSettings(placement="mesh:1", batch_tokens=512), 0, 1),
    (ExecutionSettings(placement="mesh:2", batch_tokens=512), 0, 2),
    (ExecutionSettings(placement="mesh:4"), 0, 4),
], ids=["pmap", "mesh4x1", "mesh2x2", "mesh1x4"])  # fmt: skip
def test_placements_and_batch_shapes_agree(
    name: str, execution: ExecutionSettings, rows_per_block: int, sharing: int, request: pytest.FixtureRequest,
    runs: dict[str, Run], instruction_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    run = capture(request.getfixturevalue(name), load_instructions(instruction_file), tmp_path / "run",
                  CaptureSettings(rows_per_block=rows_per_block), execution=execution)  # fmt: skip
    assert run.manifest.devices.mesh["model"] == sharing
    assert run.manifest.execution == dataclasses.asdict(execution)
    for array, values in arrays(run).items():
        expected = arrays(runs[name])[array]
        if values.dtype == np.float32:
            np.testing.assert_allclose(values, expected, atol=1e-4)
        else:
            flips = np.abs(values.astype(int) - expected.astype(int)).sum()
            assert flips <= 1e-5 * expected.size * runs[name].token_count.mean(), array


def test_one_device_gives_the_same_bits(
    llama: ModelDir, instruction_file: Path, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    monkeypatch.setattr(jax, "local_devices", lambda: jax.devices()[:1])
    same(runs["llama"], capture(llama, load_instructions(instruction_file), tmp_path / "run", SMALL))


def test_values(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    settings = dataclasses.replace(SMALL, value_statistics=True)
    run = capture(llama, load_instructions(instruction_file), tmp_path / "run", settings)
    reference, ids = Reference(hf_llama), token_ids(llama, instruction_file)
    for row in (0, 5, 47):
        read = reference.run(ids[row], {f"a{layer}": f"model.layers.{layer}.mlp.act_fn" for layer in range(3)})
        values = np.stack([read[f"a{layer}"] for layer in range(3)])
        np.testing.assert_allclose(run.read("mlp/value_sum")[row], values.sum(1), rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(run.read("mlp/value_max")[row], values.max(1), rtol=1e-4, atol=1e-4)


def test_a_run_describes_itself(runs: dict[str, Run], instruction_file: Path) -> None:
    run = runs["moe"]
    assert run.manifest.capture["scope"] == "prompt"
    assert run.categories == ["A", "B", "C"]
    assert [row["id"] for row in run.instructions] == [
        json.loads(line)["id"] for line in instruction_file.read_text().splitlines()
    ]
    assert [row["token_count"] for row in run.instructions] == run.token_count.tolist()
    array = run.count("routed")
    assert array.domain.labels == ("instruction", "layer", "expert", "neuron")
    tree = run.dataset()
    np.testing.assert_array_equal(tree["routed/layer"], [1, 2, 3])
    np.testing.assert_array_equal(tree["routed/selected_count"], run.read("routed/selected_count"))
    assert tree["routed"].positive_count.dims == ("instruction", "layer", "expert", "neuron")
    p = run.frequency("routed").read().result()
    counts = run.read("routed/positive_count")
    np.testing.assert_array_equal(p, counts / run.token_count[:, None, None, None].astype(np.float32))
    f = run.frequency("expert").read().result()
    assert (p.max(-1) <= f).all()
    np.testing.assert_allclose(f.sum(-1), 2.0, rtol=1e-6)
    np.testing.assert_allclose(run.frequency("mlp")[3, 0, 5:9].read().result(),
                               run.read("mlp/positive_count")[3, 0, 5:9] / run.token_count[3])  # fmt: skip


def test_resumes_to_the_same_bits(
    moe: ModelDir, instruction_file: Path, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions, original, blocks = load_instructions(instruction_file), Blocks.statistics, []

    def stop_at_third(self: Any, *args: Any) -> Any:
        if len(blocks) == 2:
            raise KeyboardInterrupt
        blocks.append(args)
        return original(self, *args)

    monkeypatch.setattr(Blocks, "statistics", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        capture(moe, instructions, tmp_path / "run", SMALL)
    interrupted = open_run(tmp_path / "run")
    assert 0 < interrupted.done.sum() < 48
    with pytest.raises(InputError, match="incomplete"):
        interrupted.require_complete()
    monkeypatch.setattr(Blocks, "statistics", original)
    same(runs["moe"], capture(moe, instructions, tmp_path / "run", SMALL))
    # A complete run is left alone.
    chunks = [path for path in (tmp_path / "run").rglob("*") if path.is_file() and "positive_count" in str(path)]
    before = {path: path.stat().st_mtime_ns for path in chunks}
    capture(moe, instructions, tmp_path / "run", SMALL)
    assert before == {path: path.stat().st_mtime_ns for path in chunks}


def test_a_changed_input_is_refused_by_name(
    llama: ModelDir, moe: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    instructions = load_instructions(instruction_file)
    capture(llama, instructions, tmp_path / "run", SMALL)
    with pytest.raises(InputError, match=r"another capture\.count_window \(0, now 7\)"):
        capture(llama, instructions, tmp_path / "run", dataclasses.replace(SMALL, count_window=7))
    with pytest.raises(InputError, match=r"another execution\.batch_tokens \(512, now 256\)"):
        capture(llama, instructions, tmp_path / "run", SMALL, execution=ExecutionSettings(batch_tokens=256))
    with pytest.raises(InputError, match=r"another model\.digest"):
        capture(moe, instructions, tmp_path / "run", SMALL)
    other = dataclasses.replace(instructions, rows=[{**row, "note": 1} for row in instructions.rows])
    with pytest.raises(InputError, match=r"another instructions\.digest"):
        capture(llama, other, tmp_path / "run", SMALL)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no run"):
        capture(llama, instructions, tmp_path / "full", SMALL)


def test_a_second_writer_is_refused(
    llama: ModelDir, instruction_file: Path, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instructions, original, refused = load_instructions(instruction_file), Blocks.statistics, []

    def meanwhile(self: Any, *arguments: Any) -> Any:
        if not refused:
            with pytest.raises(InputError, match="run: another capture is writing it") as error:
                capture(llama, instructions, tmp_path / "run", SMALL)
            refused.append(error)
        return original(self, *arguments)

    monkeypatch.setattr(Blocks, "statistics", meanwhile)
    same(runs["llama"], capture(llama, instructions, tmp_path / "run", SMALL))
    assert refused
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_job_of_another_size_is_refused_and_what_a_killed_one_left_is_not_minded(tmp_path: Path) -> None:
    (tmp_path / ".run.writer3of4").touch()
    with only_writer(tmp_path / "run", 1, 2), only_writer(tmp_path / "run", 0, 2):
        assert not (tmp_path / ".run.writer3of4").exists()
        with (
            pytest.raises(InputError, match="run: another capture is writing it"),
            only_writer(tmp_path / "run", 0, 1),
        ):
            pass
        assert not (tmp_path / ".run.writer0of1").exists()
    with only_writer(tmp_path / "run", 0, 1):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be written"), only_writer(tmp_path / "file" / "run", 0, 1):
        pass


def test_a_disk_that_fills(
    llama: ModelDir, instruction_file: Path, runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as files may grow; with room again, the same command completes the run."""
    instructions, original = load_instructions(instruction_file), Blocks.statistics
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(self: Any, *arguments: Any) -> Any:
        resource.setrlimit(resource.RLIMIT_FSIZE, (64, usual[1]))
        return original(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Blocks, "statistics", fill)
        try:
            with pytest.raises(InputError, match=r"run: the store failed: .*File too large"):
                capture(llama, instructions, tmp_path / "run", SMALL)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert not open_run(tmp_path / "run").done.any()
    same(runs["llama"], capture(llama, instructions, tmp_path / "run", SMALL))


def test_long_texts_are_refused_or_truncated_and_counted(
    llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    instructions = load_instructions(instruction_file)
    with pytest.raises(InputError, match=r"longer than 100 tokens, the limit that capture.max_tokens sets: r0 \(\d+\)"):
        capture(llama, instructions, tmp_path / "refused", dataclasses.replace(SMALL, max_tokens=100))
    assert not (tmp_path / "refused").exists()
    run = capture(llama, instructions, tmp_path / "cut", dataclasses.replace(SMALL, max_tokens=100, truncate=True))
    lengths = [len(ids) for ids in token_ids(llama, instruction_file)]
    truncated = {f"r{row}": length for row, length in enumerate(lengths) if length > 100}
    assert run.manifest.instructions.truncated == truncated
    assert truncated
    np.testing.assert_array_equal(run.token_count, np.minimum(lengths, 100))


def test_the_limit_that_holds_is_named(llama: ModelDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Above the model's limit, to raise `capture.max_tokens` would be bad advice."""
    rows = [{"id": "long", "category": "X", "instruction": "word " * 1200}]
    with pytest.raises(
        InputError, match=r"1024 tokens, the model's limit: long \(\d+\); set capture.truncate or leave"
    ):
        capture(
            llama, InstructionSet("rows", rows, ["X"]), tmp_path / "run", dataclasses.replace(SMALL, max_tokens=2000)
        )
    line = "capture.max_tokens 2000 is more than 1024, the model's limit, which holds\n"
    assert capsys.readouterr().err == line


def test_scopes_count_their_tokens(
    llama: ModelDir, hf_llama: Path, instruction_file: Path, runs: dict[str, Run], tmp_path: Path
) -> None:
    """Counts of the words and of the response, against hooks on the whole text; the model reads the same either way."""
    instructions = load_instructions(instruction_file)
    rows = [row | {"response": f"The answer is {index}."} for index, row in enumerate(instructions.rows[:6])]
    few = dataclasses.replace(instructions, rows=rows)
    tokenizer, reference = llama.tokenizer(), Reference(hf_llama)
    template = make_template("plain", tokenizer)
    made: dict[str, Run] = {}
    for scope in ("instruction", "response"):
        settings = dataclasses.replace(SMALL, scope=scope, template="plain")
        made[scope] = run = capture(llama, few, tmp_path / scope, settings)
        reader = Reader(tokenizer, dataclasses.replace(template, separator=""), 512, Limit(1024))
        prompts = tokenize_prompts(few, reader, scope=scope)
        texts = prompts if scope == "instruction" else tokenize_responses(few, prompts, reader, end=False)
        assert run.token_count.tolist() == texts.counted.tolist()
        for index, ids in enumerate(texts.ids):
            gates = {str(layer): f"model.layers.{layer}.mlp.gate_proj" for layer in range(3)}
            read = reference.run(ids, gates | {f"act{layer}": f"model.layers.{layer}.mlp.act_fn" for layer in range(3)})
            counting = texts.counting(index)
            expected = np.stack([(read[f"act{layer}"][counting] > 0).sum(0) for layer in range(3)])
            # Only what is zero within rounding may have the other sign.
            near = np.stack([(np.abs(read[str(layer)][counting]) < 2e-6).sum(0) for layer in range(3)])
            off = np.abs(run.read("mlp/positive_count")[index].astype(int) - expected)
            assert (off <= near).all()
            assert near.sum() < 5  # of about 40,000
        recorded = run.manifest.capture
        assert (recorded["scope"], recorded["template"]) == (scope, "plain")
        assert recorded["template_digest"] == template.digest
    with pytest.raises(InputError, match=r"another capture\.scope \('response', now 'prompt'\)"):
        capture(llama, few, tmp_path / "response", dataclasses.replace(SMALL, template="plain"))
    bare = dataclasses.replace(few, rows=[row | {"response": None} for row in rows])
    with pytest.raises(InputError, match=r"field 'response' is missing or empty in"):
        capture(llama, bare, tmp_path / "none", dataclasses.replace(SMALL, scope="response"))


@pytest.mark.parametrize(("change", "message"), [
    ({"scope": "answer"}, r"capture\.scope 'answer' is not known; known: prompt, instruction, response"),
    ({"template": "alpaca"}, r"capture\.template 'alpaca' is not known"),
    ({"template": "chat"}, "the tokenizer has no chat template"),
    ({"template": "plain", "truncate": True}, r"capture\.truncate would cut off the template"),
    ({"scope": "response", "truncate": True}, r"capture\.truncate would cut off the template or the response"),
    ({"convention": "up"}, "capture.convention 'up'"),
    ({"rows_per_block": 12}, "power of two"),
    ({"max_tokens": -1}, "max_tokens must not be negative"),
])  # fmt: skip
def test_bad_settings(llama: ModelDir, instruction_file: Path, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(llama, load_instructions(instruction_file), tmp_path / "run", dataclasses.replace(SMALL, **change))


@pytest.mark.parametrize(("change", "message"), [
    ({"placement": "ring"}, r"execution\.placement 'ring' is not known; known: pmap, mesh, and mesh:N"),
    ({"placement": "mesh:3"}, r"execution\.placement 'mesh:3': 3 does not divide the 4 local devices"),
    ({"dtype": "int8"}, r"execution\.dtype 'int8' is not supported; supported: auto, float32, bfloat16, float16"),
    ({"batch_tokens": 0}, r"execution\.batch_tokens must be positive, got 0"),
])  # fmt: skip
def test_bad_execution(llama: ModelDir, instruction_file: Path, tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        capture(llama, load_instructions(instruction_file), tmp_path / "run", execution=ExecutionSettings(**change))
    assert not (tmp_path / "run").exists()


def test_a_mesh_that_does_not_divide_the_heads(hf_llama: Path, tmp_path: Path, instruction_file: Path) -> None:
    from sparcom_jax.convert.model_dir import convert
    from tests import checkpoints

    model = convert(checkpoints.llama(tmp_path / "hf", num_key_value_heads=2), tmp_path / "model")
    with pytest.raises(InputError, match=r"execution\.placement 'mesh': 4 does not divide num_key_value_heads 2"):
        capture(model, load_instructions(instruction_file), tmp_path / "run",
                execution=ExecutionSettings(placement="mesh"))  # fmt: skip


def test_a_tokenizer_that_does_not_fit(tmp_path: Path, instruction_file: Path) -> None:
    from sparcom_jax.convert.model_dir import convert
    from tests import checkpoints

    model = convert(checkpoints.llama(tmp_path / "hf", vocab_size=64), tmp_path / "model")
    with pytest.raises(InputError, match="the tokenizer does not fit the model"):
        capture(model, load_instructions(instruction_file), tmp_path / "run", SMALL)
