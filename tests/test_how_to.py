"""The code of docs/how-to, run as it stands, against what the engine itself does."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.batches.packing import fill, one_text
from sparcom_jax.causal.interventions import Intervention
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.models.decoder import bind
from sparcom_jax.models.edits import Edits
from sparcom_jax.units.groups import EXPERT_GROUP

HOW_TO = Path(__file__).parents[1] / "docs/how-to"
SETTINGS = AblationSettings(how="zero", experts="zero")
IDS = np.asarray([0, 40, 300, 7, 81, 199, 12, 500, 33], np.int32)


@pytest.fixture(scope="module")
def runs(
    llama: ModelDir, moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, sj.Run]:
    """Runs with units of the category MATH, whose instructions are those of B."""
    rows = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.write_text(instruction_file.read_text().replace('"category": "B"', '"category": "MATH"'))
    made = {}
    for name, model in (("llama", llama), ("moe", moe)):
        run = sj.capture(model, rows, tmp_path_factory.mktemp(name) / "run",
                         execution=sj.ExecutionSettings(batch_tokens=512))  # fmt: skip
        sj.select(run, sj.SelectSettings(size=60, expert_size=3 if name == "moe" else 0, control_length=False))
        made[name] = run
    return made


def logits_of(model: ModelDir, edits: Edits) -> np.ndarray:
    shape = one_text(len(IDS))
    batch = jax.tree.map(jnp.asarray, fill(shape, [IDS], [np.ones(len(IDS), bool)]))
    params = model.restore(jax.sharding.SingleDeviceSharding(jax.devices()[0]), "float32")

    @jax.jit
    def forward(params: Any, edits: Edits) -> Any:
        decoder = bind(model.config, params)
        with jax.default_matmul_precision("highest"):
            return decoder.logits(decoder(batch, shape, edits=edits).hidden)

    return np.asarray(forward(params, edits))[: len(IDS)]


@pytest.mark.parametrize(("block", "name"), [(0, "llama"), (1, "moe")])
def test_masks_in_pytorch(
    block: int, name: str, runs: dict[str, sj.Run], request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    model: ModelDir = request.getfixturevalue(name)
    run, units = runs[name], sj.open_units(runs[name], "auroc")
    (tmp_path / "checkpoint").symlink_to(request.getfixturevalue(f"hf_{name}"))
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/base").symlink_to(run.location)
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"^```python\n(.*?)^```$", (HOW_TO / "masks_in_pytorch.md").read_text(), re.MULTILINE | re.DOTALL)
    assert len(code) == 2
    known: dict[str, Any] = {}
    exec(code[block], known)
    with torch.inference_mode():
        found = known["model"](torch.tensor(IDS)[None].long()).logits[0].numpy()
    groups = ("mlp",) if name == "llama" else ("shared", "routed", EXPERT_GROUP)
    off = {group: units.mask[group][run.categories.index("MATH")] for group in groups}
    assert all(mask.any() for mask in off.values())
    edits = Intervention(run.groups, SETTINGS, None).edits(off)
    expected, untouched = logits_of(model, edits), logits_of(model, Edits())
    scale = np.abs(untouched).max()
    np.testing.assert_allclose(found, expected, atol=1e-4 * scale)
    assert np.abs(untouched - expected).max() > 1e-2 * scale
