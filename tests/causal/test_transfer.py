"""Units that another run chose, against the same units as if this run had chosen them itself."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.causal.transfer import transfer
from sparcom_jax.convert.model_dir import ModelDir, convert
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.instructions.rows import InstructionSet
from sparcom_jax.report.page import report
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.store.units import origin_of
from sparcom_jax.units.unit_set import UnitSet
from tests import checkpoints
from tests.causal.references import table

SETTINGS = AblationSettings(draws=1, bootstraps=3)
EXECUTION = ExecutionSettings(batch_tokens=512)


@pytest.fixture(scope="module")
def units_run(llama: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    path = tmp_path_factory.mktemp("transfer") / "run"
    run = capture(llama, sj.load_instructions(instruction_file), path, execution=EXECUTION)
    sj.select(run, SelectSettings(size=30, control_length=False))
    return run


def measured_in(output: Path) -> set[str]:
    return {row["id"] for row in table(output / "instruction_effects.csv")}


def test_other_instructions(llama: ModelDir, units_run: sj.Run, instruction_file: Path, tmp_path: Path) -> None:
    """Those that chose the units are known by their id or their text; a category without instructions is left out."""
    rows = sj.load_instructions(instruction_file).rows
    known = {name: [row for row in rows if row["category"] == name] for name in "AC"}
    other = [row | {"category": name, **change} for name in "CA" for row, change in (
        *((row, {"id": f"new-{row['id']}"}) for row in known[name][:6]),
        *((row, {"instruction": f"Oh, {row['instruction']}"}) for row in known[name][6:12]),
        *((row, {"id": f"own-{row['id']}", "instruction": f"So, {row['instruction']}"}) for row in known[name][12:]),
    )]  # fmt: skip
    run = capture(llama, InstructionSet("other", other, ["C", "A"]), tmp_path / "run", execution=EXECUTION)
    summary = transfer(llama, run, units_run, "auroc", tmp_path / "out", SETTINGS, EXECUTION)
    units = sj.open_units(units_run, "auroc")
    chose = [row for row in units_run.instructions if row["id"] in units.origin["half"]]
    seen = {row["id"] for row in other if row["id"] in {one["id"] for one in chose}
            or row["instruction"] in {one["instruction"] for one in chose}}  # fmt: skip
    assert any(name.startswith("new-") for name in seen)
    assert any(name.startswith("r") for name in seen)
    assert measured_in(tmp_path / "out") == {row["id"] for row in other} - seen
    assert summary["units"] == {"run": units_run.address, **units.record()}
    assert summary["units_from"]["instructions_in_common"] == len(seen)
    assert summary["units_from"]["categories"] == ["A", "B", "C"]
    score, mask = ({"mlp": of["mlp"][[2, 0]]} for of in (units.score, units.mask))
    own = UnitSet(["C", "A"], units.groups, score, mask, origin_of(run, "auroc", half=sorted(seen), seed=0))
    expected = ablate(llama, run, own, tmp_path / "own", SETTINGS, EXECUTION)
    assert summary["targets"] == expected["targets"]
    for name in summary["tables"]:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert "chosen by another run" in report(tmp_path / "out", tmp_path / "report.html").read_text()


def test_the_units_of_one_model_in_another(units_run: sj.Run, instruction_file: Path, tmp_path: Path) -> None:
    tuned = convert(checkpoints.save_model(tmp_path / "hf", "llama", seed=1), tmp_path / "model")
    run = capture(tuned, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    half = {*sj.open_units(units_run, "auroc").origin["half"]}
    summary = transfer(tuned, run, units_run, "auroc", tmp_path / "out", SETTINGS, EXECUTION)
    assert measured_in(tmp_path / "out") == {row["id"] for row in run.instructions} - half
    transfer(tuned, run, units_run, "auroc", tmp_path / "chosen", replace(SETTINGS, measured="chosen"), EXECUTION)
    assert measured_in(tmp_path / "chosen") == half
    assert summary["model"]["digest"] == tuned.digest
    assert summary["units_from"]["model"]["digest"] == units_run.manifest.model.digest != tuned.digest
    assert np.abs(summary["targets"]["neurons"]["delta"]).max() > 1e-3


def test_what_cannot_be_transferred_is_refused(
    llama: ModelDir, moe: ModelDir, units_run: sj.Run, instruction_file: Path, tmp_path: Path
) -> None:
    data = sj.load_instructions(instruction_file)
    run = capture(moe, data, tmp_path / "moe", execution=EXECUTION)
    with pytest.raises(
        InputError, match=r"its model is of another architecture than that of .*: family llama, not qwen2_moe"
    ):
        transfer(moe, run, units_run, "auroc", tmp_path / "out", SETTINGS, EXECUTION)
    few = InstructionSet("few", [row | {"category": "D"} if row["id"] == "r0" else row for row in data.rows], [*"ABCD"])
    run = capture(llama, few, tmp_path / "few", execution=EXECUTION)
    with pytest.raises(InputError, match=r"units 'auroc' are of A, B, C; .* has D besides, for which there are none"):
        transfer(llama, run, units_run, "auroc", tmp_path / "out", SETTINGS, EXECUTION)
    with pytest.raises(InputError, match="no units 'mine'; the run has auroc"):
        transfer(llama, run, units_run, "mine", tmp_path / "out", SETTINGS, EXECUTION)
    (everywhere,) = sj.select(units_run, SelectSettings(size=30, control_length=False, half="all"), name="all")
    with pytest.raises(InputError, match=r"no instructions of A, B, C to measure on \(held_out\)"):
        transfer(llama, units_run, units_run, everywhere.name, tmp_path / "out", SETTINGS, EXECUTION)
    assert not (tmp_path / "out").exists()
