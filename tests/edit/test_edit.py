"""Edited checkpoints in transformers against the decoder with edits, of every family; and what is refused."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import safe_open

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.edit.edit import NEVER, edit
from sparcom_jax.edit.means import _means
from sparcom_jax.edit.settings import EditSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.edits import Edits, NeuronEdit
from sparcom_jax.units.groups import EXPERT_GROUP, TARGETS
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.verify.reference import Reference
from tests import checkpoints
from tests.edits import ORIGIN, TEXT, edits_of, forward_of, removed, scored, unit_set
from tests.families import CASES, MLPS


def close(mine: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def tensors_of(directory: Path) -> dict[str, tuple[str, bytes]]:
    found = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (no mapping)
                found[name] = path.name, file.get_tensor(name).contiguous().view(torch.uint8).numpy().tobytes()
    return found


@pytest.mark.parametrize("case", MLPS, ids="-".join)
def test_transformers_runs_the_edited_model(case: tuple[str, str], tmp_path: Path) -> None:
    family, name = case
    source = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][name])
    model = convert(source, tmp_path / "model")
    units = unit_set(model)
    logits = forward_of(model)
    plain = logits(edits_of(model, units, None))
    tried = [EditSettings(), EditSettings(how="scale", alpha=-1.5)]
    if EXPERT_GROUP in units.groups:
        assert model.config.experts is not None
        tried += [EditSettings("experts"), EditSettings("experts", "scale", 0.5)]
        masked = EditSettings("experts", experts="mask")
        if model.config.experts.bias:
            tried.append(masked)
        else:
            with pytest.raises(InputError, match="its router has no bias, and no weights of it make an expert that is"):
                edit(source, units, "B", tmp_path / "masked", masked)
    for number, settings in enumerate(tried):
        output = tmp_path / f"edited{number}"
        record = edit(source, units, "B", output, settings)
        expected = logits(edits_of(model, units, settings))
        assert np.abs(expected - plain).max() > 1e-3 * np.abs(plain).max(), settings
        close(np.asarray(Reference(output).run(TEXT, {})["logits"]), expected)
        before, after = tensors_of(source), tensors_of(output)
        changed = {one for one, value in before.items() if after[one] != value}
        assert 0 < len(changed) == record["edited"]["tensors"] < len(before)
        assert before.keys() == after.keys()
        masks = [units.mask[group][1] for group in TARGETS[settings.target] if group in units.groups]
        assert record["edited"][settings.target] == sum(map(np.count_nonzero, masks))
    # What is edited is a checkpoint as any other.
    again = convert(tmp_path / "edited0", tmp_path / "again")
    close(forward_of(again)(edits_of(model, units, None)), logits(edits_of(model, units, tried[0])))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_shards(dtype: torch.dtype, tmp_path: Path) -> None:
    """Rounded to nearest, as NumPy rounds; all else is the same, shard by shard."""
    source = checkpoints.qwen2_moe(tmp_path / "hf", dtype=dtype)
    model = convert(source, tmp_path / "model")
    names = list(tensors_of(source))
    with safe_open(source / "model.safetensors", "pt") as file:
        tensors = {name: file.get_tensor(name) for name in names}
    from safetensors.torch import save_file as save_torch

    half = len(names) // 2
    index = {}
    for number, mine in enumerate((names[:half], names[half:]), 1):
        shard = f"model-{number:05d}-of-00002.safetensors"
        save_torch({name: tensors[name] for name in mine}, source / shard, {"format": "pt"})
        index |= dict.fromkeys(mine, shard)
    (source / "model.safetensors").unlink()
    (source / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    (source / "pytorch_model.bin").write_bytes(b"pickle")
    (source / "README.md").write_text("words")
    (source / "onnx").mkdir()
    units = unit_set(model)
    edit(source, units, "B", tmp_path / "out", EditSettings(how="scale", alpha=0.3))
    files = {path.name for path in source.iterdir()} - {"pytorch_model.bin", "onnx"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == files | {"sparcom_edit.json"}
    for name in files - {*index.values()}:
        assert (tmp_path / "out" / name).read_bytes() == (source / name).read_bytes()
    before, after = tensors_of(source), tensors_of(tmp_path / "out")
    layer = units.groups["routed"].layers[0]
    expert = int(np.flatnonzero(units.mask["routed"][1, 0].any(1))[0])
    name = f"model.layers.{layer}.mlp.experts.{expert}.down_proj.weight"
    numpy_dtype = ml_dtypes.bfloat16 if dtype == torch.bfloat16 else np.float16
    was, now = (np.frombuffer(of[name][1], numpy_dtype).reshape(tensors[name].shape) for of in (before, after))
    mask = units.mask["routed"][1, 0, expert]
    expected = np.where(mask, (was.astype(np.float32) * np.float32(0.3)).astype(numpy_dtype), was)
    np.testing.assert_array_equal(now, expected)
    assert {one for one in before if before[one] != after[one]} <= {one for one in before if "down_proj" in one}
    if dtype == torch.float16:
        with pytest.raises(InputError, match=r"down_proj\.weight: 1e\+07 times its values is beyond float16"):
            edit(source, units, "B", tmp_path / "huge", EditSettings(how="scale", alpha=1e7))
        assert not list(tmp_path.glob("*huge*"))


def test_units_of_a_run_and_of_a_file(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run")
    sj.select(run, sj.SelectSettings(size=6, control_length=False))
    by_run = sj.edit(hf_llama, "auroc", "B", tmp_path / "one", run=tmp_path / "run")
    file = tmp_path / "run/units/auroc.safetensors"
    by_file = sj.edit(str(hf_llama), file, "B", tmp_path / "two")
    assert by_run["units"]["name"] == "auroc"
    assert json.loads((tmp_path / "one/sparcom_edit.json").read_text()) == by_run
    assert {**by_run, "units": 0} == {**by_file, "units": 0}
    assert tensors_of(tmp_path / "one") == tensors_of(tmp_path / "two")
    assert by_run["consequence"] == "6 neurons write nothing: their columns of the down projection are 0."
    assert by_run["edited"]["neurons"] == 6
    with pytest.raises(InputError, match="one: exists already"):
        edit(hf_llama, file, "B", tmp_path / "one")
    with pytest.raises(InputError, match=r"run: was captured from another model than .*one$"):
        edit(tmp_path / "one", "auroc", "B", tmp_path / "new", run=run)
    with pytest.raises(InputError, match="auroc: no such file; without a run, units are a safetensors file"):
        edit(hf_llama, "auroc", "B", tmp_path / "new")
    with pytest.raises(InputError, match="have no category 'Z'; they are of A, B, C"):
        edit(hf_llama, file, "Z", tmp_path / "new")
    with pytest.raises(InputError, match="have no experts of B, so there is nothing to edit"):
        edit(hf_llama, file, "B", tmp_path / "new", EditSettings("experts"))
    other = checkpoints.llama(tmp_path / "other", num_hidden_layers=2)
    with pytest.raises(InputError, match="the units are of another model: mlp is"):
        edit(other, file, "B", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_settings_that_mean_nothing(hf_llama: Path, tmp_path: Path) -> None:
    for settings, message in (
        (EditSettings(how="off"), "how 'off' is not known; known: zero, scale, mean"),
        (EditSettings("experts", "mean"), "how mean is of neurons; experts can be zero or scaled"),
        (EditSettings(how="mean"), "how mean needs the run and the converted model"),
        (EditSettings(prune=-1), "prune must not be negative, got -1"),
        (EditSettings(how="scale", alpha=2.0, prune=1), "how scale and experts zero have no effect with prune 1"),
        (EditSettings(target="layers"), "target 'layers' is not known; known: neurons, experts"),
        (EditSettings(alpha=0.5), r"alpha 0\.5 has no effect with how zero; leave it out"),
        (EditSettings(how="scale", alpha=float("inf")), "alpha must be finite, got inf"),
        (EditSettings(experts="mask"), "experts mask has no effect with target neurons and how zero"),
    ):
        with pytest.raises(InputError, match=message):
            edit(hf_llama, "x", "B", tmp_path / "new", settings)


def test_sources_that_cannot_be_edited(hf_llama: Path, llama: ModelDir, tmp_path: Path) -> None:
    units = unit_set(llama)
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match="is a GGUF file, whose blocks of quantised values cannot hold an edit"):
        edit(tmp_path / "model.gguf", units, "B", tmp_path / "new")
    quantised = shutil.copytree(hf_llama, tmp_path / "quantised")
    config = json.loads((quantised / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    (quantised / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="is quantised, so that a part of a tensor cannot be set exactly"):
        edit(quantised, units, "B", tmp_path / "new")


def test_too_few_experts_are_left(tmp_path: Path) -> None:
    source = checkpoints.save_model(tmp_path / "hf", "gpt_oss", **next(iter(CASES["gpt_oss"].values())))
    model = convert(source, tmp_path / "model")
    units = unit_set(model)
    units.mask[EXPERT_GROUP][1, 0] = True
    with pytest.raises(InputError, match=r"layer 0 is left with 0 experts, but a token needs \d"):
        edit(source, units, "B", tmp_path / "new", EditSettings("experts", experts="mask"))
    assert NEVER["float16"] > -65504


def test_a_disk_that_is_full_leaves_nothing(
    hf_llama: Path, llama: ModelDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)$"):
        edit(hf_llama, unit_set(llama), "B", tmp_path / "out")
    assert not list(tmp_path.iterdir())


BIASED = [("llama", "biases"), ("gpt_neox", "plain"), ("gpt_oss", "plain")]


@pytest.mark.parametrize("case", [case for case in BIASED if case[1] in CASES[case[0]]], ids="-".join)
def test_neurons_at_their_mean(case: tuple[str, str], instruction_file: Path, tmp_path: Path) -> None:
    family, name = case
    source = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][name])
    model = convert(source, tmp_path / "model")
    run = capture(model, sj.load_instructions(instruction_file), tmp_path / "run")
    made = unit_set(model)
    groups = {group: made.groups[group] for group in TARGETS["neurons"] if group in made.groups}
    masks = {group: np.stack([made.mask[group][1]] * len(run.categories)) for group in groups}
    units = UnitSet(run.categories, groups, {group: mask.astype(np.float32) for group, mask in masks.items()}, masks,
                    ORIGIN | {"run_digest": run.digest})  # fmt: skip
    record = edit(source, units, "B", tmp_path / "out", EditSettings(how="mean"), run=run, model=model)
    means = _means(model, run)
    edits = Edits(**{
        group: NeuronEdit(np.float32(~mask[1])[:, None], np.where(mask[1], means[group], 0).astype(np.float32)[:, None])
        for group, mask in masks.items()
    })  # fmt: skip
    logits = forward_of(model)
    expected = logits(edits)
    off = logits(Edits(**{group: NeuronEdit(np.float32(~mask[1])[:, None]) for group, mask in masks.items()}))
    assert np.abs(expected - off).max() > 1e-3 * np.abs(off).max()
    close(np.asarray(Reference(tmp_path / "out").run(TEXT, {})["logits"]), expected)
    written = "neurons write what they write at their mean, whatever they read, by the bias of down_proj."
    assert record["consequence"].endswith(written)


def test_a_mean_needs_a_bias(llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run")
    sj.select(run, sj.SelectSettings(size=6, control_length=False))
    with pytest.raises(InputError, match="its down projections have no bias, which would have to hold what neurons"):
        edit(hf_llama, "auroc", "B", tmp_path / "out", EditSettings(how="mean"), run=run, model=llama)
    with pytest.raises(InputError, match="model has no effect with how zero; leave it out"):
        edit(hf_llama, "auroc", "B", tmp_path / "out", run=run, model=llama)
    assert not (tmp_path / "out").exists()


NO_CONFIG = "no config of deepseek_v2 describes what would be left; edit without prune"
NOT_SMALLER: dict[tuple[str, ...], str] = {
    ("deepseek_v2", "plain", "neurons"): NO_CONFIG,
    ("deepseek_v2", "groups", "neurons"): NO_CONFIG,
    ("deepseek_v2", "groups", "experts"): "its experts form groups, which would not be of one size",
}
"""The shared experts of DeepSeek are so many times as wide as a routed one."""


@pytest.mark.parametrize("target", ["neurons", "experts"])
@pytest.mark.parametrize("case", MLPS, ids="-".join)
def test_a_smaller_model_is_the_one_with_units_off(case: tuple[str, str], target: str, tmp_path: Path) -> None:
    family, name = case
    source = checkpoints.save_model(tmp_path / "hf", family, **CASES[family][name])
    model = convert(source, tmp_path / "model")
    units = scored(model)
    if target == "experts" and EXPERT_GROUP not in units.groups:
        with pytest.raises(InputError, match="have no scores of experts, so that none can be taken out"):
            edit(source, units, "B", tmp_path / "out", EditSettings(target, prune=1))
        return
    if message := NOT_SMALLER.get((*case, target)):
        with pytest.raises(InputError, match=message):
            edit(source, units, "B", tmp_path / "out", EditSettings(target, prune=1))
        return
    record = edit(source, units, "B", tmp_path / "out", EditSettings(target, prune=1))
    off = removed(units, target)
    expected = forward_of(model)(Edits.switch_off(off))
    close(np.asarray(Reference(tmp_path / "out").run(TEXT, {})["logits"]), expected)
    smaller = convert(tmp_path / "out", tmp_path / "smaller")
    assert smaller.manifest["parameters"] < model.manifest["parameters"]
    assert record["edited"][target] == sum(int(mask.sum()) for mask in off.values())
    assert record["consequence"].startswith(f"1 {target} of every layer are not there any more")


def test_what_cannot_be_pruned(llama: ModelDir, hf_llama: Path, tmp_path: Path) -> None:
    units = scored(llama)
    with pytest.raises(InputError, match="80 of 80 mlp units cannot be taken out of a layer: 1 must be left"):
        edit(hf_llama, units, "B", tmp_path / "out", EditSettings(prune=80))
    (tmp_path / "units").write_bytes(b"")
    with pytest.raises(InputError, match="units: "):
        edit(hf_llama, tmp_path / "units", "B", tmp_path / "out", EditSettings(prune=1))
    assert not (tmp_path / "out").exists()
