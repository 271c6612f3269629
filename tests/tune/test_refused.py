"""Settings, instructions, disks and checkpoints that a training refuses."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.tune.checkpoints import Checkpoints
from sparcom_jax.tune.finetune import finetune
from sparcom_jax.tune.settings import TuneSettings

SMALL = ExecutionSettings(batch_tokens=128)
FEW = TuneSettings(category="B", epochs=4, learning_rate=3e-3, per_category=2, validation=0.2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (TuneSettings(category="Z"), "no category 'Z'; there are A, B, C"),
        (TuneSettings(half="third"), "half 'third' is not known"),
        (TuneSettings(schedule="step"), "schedule 'step' is not known; known: cosine, linear, constant"),
        (TuneSettings(epochs=0), "epochs must be positive, got 0"),
        (TuneSettings(learning_rate=float("nan")), "learning_rate must be positive, got nan"),
        (TuneSettings(validation=1.0), r"validation must be within \[0, 1\), got 1.0"),
        (TuneSettings(patience=2, validation=0.0), "patience 2 has no effect with validation 0"),
        (TuneSettings(template="chat"), "the tokenizer has no chat template"),
    ],
)
def test_settings_that_mean_nothing(
    settings: TuneSettings, message: str, llama: ModelDir, instruction_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        finetune(llama, instruction_file, "all", tmp_path / "out", settings, SMALL)
    assert not (tmp_path / "out").exists()


def test_instructions_that_cannot_be_learnt_from(llama: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in instruction_file.read_text().splitlines()]
    for field, value, message in (
        ("response", None, "field 'response' is missing or empty in r0, r1"),
        ("response", "word " * 3000, r"prompt and response are longer than \d+ tokens, .*: r0 \(\d+\)"),
    ):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row | {field: value}) + "\n" for row in rows))
        with pytest.raises(InputError, match=message):
            finetune(llama, file, "all", tmp_path / "out", TuneSettings(half="all"), SMALL)


def test_a_disk_that_is_full(
    llama: ModelDir, instruction_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orbax.checkpoint as ocp

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ocp.CheckpointManager, "save", full)
    with pytest.raises(InputError, match=r"training: cannot be written \(.*No space left on device.*\); the"):
        finetune(llama, instruction_file, "lora:1", tmp_path / "out", FEW, SMALL)
    assert not (tmp_path / "out/summary.json").exists()


def test_a_checkpoint_that_is_damaged_is_refused(llama: ModelDir, tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "training")
    tree = {"x": jax.numpy.arange(4.0)}
    checkpoints.save(3, tree, {"step": 3})
    (found, history) = checkpoints.restore(tree)
    np.testing.assert_array_equal(found["x"], np.arange(4.0))
    assert history == {"step": 3}
    with pytest.raises(InputError, match="cannot be read"):
        checkpoints.restore({"x": tree["x"], "y": tree["x"]})
    checkpoints.close()
