"""Sets that the device cuts: against sorting by hand, and bit by bit against identify on stored counts."""

import dataclasses
import math
import shutil
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh
from jax.sharding import PartitionSpec as P

import sparcom_jax as sj
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.settings import CompareSettings
from sparcom_jax.capture import capture as capture_module
from sparcom_jax.capture.cuts import SetCut
from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import Selection
from sparcom_jax.instructions.rows import load_instructions
from sparcom_jax.models.batch import Batch
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.units.bits import unpack
from sparcom_jax.units.groups import Group
from tests import checkpoints, oracles

GROUPS = (Group("mlp", (0, 3), ("neuron",), (64,)), Group("routed", (1, 2), ("expert", "neuron"), (4, 11)))
SETS = CaptureSettings(keep="sets", rows_per_block=16)
COUNTS = dataclasses.replace(SETS, keep="counts")
SMALL = ExecutionSettings(batch_tokens=512)
capture = partial(capture_module.capture, execution=SMALL)


@pytest.mark.parametrize("devices", [1, 4])
@pytest.mark.parametrize("pool", [False, True])
@pytest.mark.parametrize("fields", [
    *({"ties": ties, "epsilon": epsilon} for ties in ("include", "drop", "exact") for epsilon in (0.01, 0.3, 1.0)),
    *({"selector": "threshold", "threshold": threshold} for threshold in (0.1, 0.07, 1 / 3, 0.7, 1.0)),
])  # fmt: skip
def test_the_device_cuts_as_sorting_does(devices: int, pool: bool, fields: dict[str, Any]) -> None:
    random = np.random.default_rng(0)
    tokens = np.asarray([1, 3, 7, 40, 100])
    row = np.repeat(np.arange(6), [*tokens, 9])  # the last are padding
    counted: Any = row < 5
    batch = Batch(jnp.zeros(160, jnp.int32), jnp.zeros(160, jnp.int32), jnp.asarray(row, jnp.int32), counted,
                  jnp.zeros(160, jnp.int32))  # fmt: skip
    counts = {group.name: random.integers(0, tokens.reshape(1, 5, *[1] * len(group.sizes)) + 1,
                                          (len(group.layers), 5, *group.sizes)).astype(np.uint16)
              for group in GROUPS}  # fmt: skip
    selection = Selection(**{"selector": "frequency"} | fields, pool=pool)
    cut = SetCut(selection, GROUPS, "model")
    mesh = Mesh(np.asarray(jax.devices()[:devices]), ("model",), axis_types=(AxisType.Auto,))
    specs = {group.name: {"positive_count": P(None, None, "model")} for group in GROUPS}
    made = {group.name: {"mask": P(None, None, "model"), "cut_count": P()} for group in GROUPS}
    on_each = jax.shard_map(lambda statistics: cut.reduce(statistics, batch, 5), mesh=mesh, in_specs=(specs,),
                            out_specs=made, check_vma=False)  # fmt: skip
    found = jax.jit(on_each)({name: {"positive_count": values} for name, values in counts.items()})
    p = {name: np.moveaxis(values, 1, 0).reshape(5, -1) / tokens[:, None] for name, values in counts.items()}
    masks = {group.name: np.moveaxis(
        unpack(np.asarray(found[group.name]["mask"]), group.sizes[-1]), 1, 0
    ).reshape(5, -1) for group in GROUPS}  # fmt: skip
    for names in [[*p]] if pool else [[name] for name in p]:
        frequency = np.concatenate([p[name] for name in names], axis=1)
        mask = np.concatenate([masks[name] for name in names], axis=1)
        for text in range(5):
            least = np.asarray(found[names[0]]["cut_count"])[text]
            if selection.selector == "threshold":
                expected = set(np.flatnonzero(frequency[text] >= selection.threshold))
                assert least == math.ceil(Fraction(str(selection.threshold)) * int(tokens[text]))
            else:
                expected, at = oracles.select(frequency[text], selection.epsilon, selection.ties)
                assert least / tokens[text] == at
            assert set(np.flatnonzero(mask[text])) == expected


@pytest.fixture(scope="module")
def even_moe(tmp_path_factory: pytest.TempPathFactory) -> ModelDir:
    """Its shared experts can be cut in two without cutting a byte."""
    root = tmp_path_factory.mktemp("even")
    source = checkpoints.qwen2_moe(root / "hf", mlp_only_layers=[0], shared_expert_intermediate_size=48)
    return convert(source, root / "model")


@pytest.fixture(scope="module")
def by_counts(
    llama: ModelDir, even_moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    root, instructions, runs = tmp_path_factory.mktemp("counts"), load_instructions(instruction_file), {}
    for model_name, model in (("llama", llama), ("even_moe", even_moe)):
        for placement in ("pmap", "mesh:2"):
            run = capture(model, instructions, root / f"{model_name}-{placement}", COUNTS,
                          execution=dataclasses.replace(SMALL, placement=placement))  # fmt: skip
            runs[model_name, placement] = run
    return runs


@pytest.mark.parametrize(("model_name", "placement", "fields"), [
    ("llama", "pmap", {}),
    ("llama", "pmap", {"ties": "exact", "epsilon": 0.2}),
    ("llama", "mesh:2", {"ties": "exact", "epsilon": 0.2}),
    ("even_moe", "pmap", {"selector": "threshold", "threshold": 0.6}),
    ("even_moe", "pmap", {"ties": "drop", "expert_per_layer": 1}),
    ("even_moe", "mesh:2", {"pool": True, "ties": "exact", "epsilon": 0.1, "expert_epsilon": 0.3}),
    ("even_moe", "mesh:2", {"epsilon": 0.02}),
])  # fmt: skip
def test_kept_sets_are_those_of_identify_bit_by_bit(
    model_name: str, placement: str, fields: dict[str, Any], by_counts: dict[tuple[str, str], Run],
    request: pytest.FixtureRequest, instruction_file: Path, tmp_path: Path,
) -> None:  # fmt: skip
    counts = by_counts[model_name, placement]
    fields = {"selector": "frequency"} | fields
    kept = capture(request.getfixturevalue(model_name), load_instructions(instruction_file), tmp_path / "run", SETS,
                   Selection(**fields), execution=ExecutionSettings(**counts.manifest.execution))  # fmt: skip
    wanted = sj.identify(counts, name="same", **fields)
    of_experts = {name: value for name, value in fields.items() if name.startswith("expert")}
    found = sj.identify(kept, name="same", **of_experts)  # the rest is what the run was cut by
    assert found.manifest == wanted.manifest
    for group in wanted.groups:
        assert group == "expert" or 0 < wanted.size(group).max() < counts.groups[group].unit_count
        for array in ("mask", "size", "cut", "membership"):
            name = f"sets/same/{group}/{array}"
            np.testing.assert_array_equal(kept.read(name), counts.read(name), err_msg=name)
    assert not any("positive_count" in name for name in kept.store.names())


@pytest.fixture
def kept(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> Run:
    by = Selection("frequency", epsilon=0.1)
    return capture(llama, load_instructions(instruction_file), tmp_path / "kept", SETS, by)


def test_counts_that_were_not_kept_are_refused_by_name(
    kept: Run, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="keeps the sets of mlp, not its counts"):
        kept.frequency("mlp")
    with pytest.raises(InputError, match=r"keeps the sets of epsilon 0\.1, not counts that epsilon 0\.05 could cut"):
        sj.identify(kept, epsilon=0.05)
    with pytest.raises(InputError, match=r"another selection\.epsilon \(0\.1, now 0\.2\)"):
        capture(llama, load_instructions(instruction_file), kept.location, SETS, Selection("frequency", epsilon=0.2))


def test_what_is_compared_without_counts(kept: Run, tmp_path: Path) -> None:
    sj.identify(kept)
    shutil.copytree(kept.location, tmp_path / "other")
    few = CompareSettings(permutations=20, bootstraps=20)
    summary = compare(kept, open_run(tmp_path / "other"), tmp_path / "out", few, set_name="frequency")
    assert summary["absent"]["frequency_drift.csv"] == "the capture of base and tuned kept sets, not counts"
    assert not (tmp_path / "out" / "frequency_drift.csv").exists()
    assert all(row["jaccard"] == 1 for row in summary["category_overlap"])


@pytest.mark.parametrize(("change", "selection", "message"), [
    ({"keep": "all"}, {}, "capture.keep 'all' is not known"),
    ({"value_statistics": True}, {}, "capture.value_statistics belongs to the counts"),
    ({}, {"ties": "maybe"}, "ties 'maybe' is not known"),
    ({}, {}, "identify.selector excess needs the counts of all instructions"),
])  # fmt: skip
def test_bad_settings(llama: ModelDir, instruction_file: Path, tmp_path: Path, change: dict[str, Any],
                      selection: dict[str, Any], message: str) -> None:  # fmt: skip
    settings = dataclasses.replace(SETS, **change)
    with pytest.raises(InputError, match=message):
        capture(llama, load_instructions(instruction_file), tmp_path / "run", settings, Selection(**selection))
    assert not (tmp_path / "run" / "zarr.json").exists()


def test_a_mesh_that_would_cut_a_byte(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    message = "placement mesh:4 leaves a device of mlp 20 neurons, which is no multiple of 8"
    with pytest.raises(InputError, match=message):
        capture(llama, load_instructions(instruction_file), tmp_path / "run", SETS, Selection("frequency"),
                execution=ExecutionSettings(placement="mesh"))  # fmt: skip
    assert not (tmp_path / "run" / "zarr.json").exists()
