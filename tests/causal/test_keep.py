"""Sufficiency against a transformers model in which all neurons but some are really set to another value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.effects import Effects, Kept, Measured
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.report.page import report
from sparcom_jax.resampling import bootstrap_weights, one_hot
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.verify.reference import Reference
from tests.causal.references import products, reference_nll, table

SETTINGS = AblationSettings(keep=True, how="mean", doses="20", draws=2, per_category=2, bootstraps=9)
EXECUTION = ExecutionSettings(batch_tokens=512)


@pytest.mark.parametrize("how", ["mean", "mean_others"])
def test_units_that_are_kept(how: str, llama: ModelDir, hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=60, control_length=False))
    summary = ablate(llama, run, units, tmp_path / "out", replace(SETTINGS, how=how), EXECUTION)
    reference = Reference(hf_llama)
    measured = {row["id"] for row in table(tmp_path / "out" / "instruction_effects.csv")}
    scored = [[row for row in run.instructions if row["id"] in measured and row["category"] == name]
              for name in run.categories]  # fmt: skip
    off = 1
    means = np.concatenate([
        products(reference, llama, row) for row in run.instructions
        if row["id"] not in measured and (how == "mean" or row["category"] != run.categories[off])
    ]).mean(axis=0)  # fmt: skip
    kept = units.mask["mlp"][off]
    untouched = [reference_nll(reference, llama, of).mean() for of in scored]

    def losses(kept: np.ndarray) -> list[float]:
        def hook_of(layer: int) -> Any:
            def hook(_: Any, inputs: Any) -> Any:
                fixed = torch.tensor(means[layer], dtype=inputs[0].dtype)
                return (torch.where(torch.tensor(kept[layer]), inputs[0], fixed),)

            return hook

        hooks = [layer.mlp.down_proj.register_forward_pre_hook(hook_of(index))
                 for index, layer in enumerate(reference.model.model.layers)]  # fmt: skip
        found = [reference_nll(reference, llama, of).mean() for of in scored]
        for hook in hooks:
            hook.remove()
        return found

    with_kept, without = losses(kept), losses(np.zeros_like(kept))
    assert np.abs(np.subtract(with_kept, without)).max() > 1e-3
    rows = [row for row in table(tmp_path / "out" / "sufficiency.csv") if row["category_kept"] == run.categories[off]]
    assert [row["units_kept"] for row in rows] == ["60"] * 3 + ["20"] * 3
    for measured_on, row in enumerate(rows[:3]):
        values = untouched[measured_on], without[measured_on], with_kept[measured_on]
        found = [float(row[name]) for name in ("nll_untouched", "nll_all_off", "nll_kept")]
        np.testing.assert_allclose(found, values, atol=2e-4)
        lost = found[1] - found[0]
        assert (row["recovered"] == "") == (lost <= 0)
        if lost > 0:
            assert float(row["recovered"]) == pytest.approx((found[1] - found[2]) / lost, rel=1e-4, abs=1e-6)
    assert summary["targets"]["neurons"]["units_off"] == [kept.size - 60] * 3
    doses = table(tmp_path / "out" / "doses.csv")
    assert [row["units_off"] for row in doses] == [str(kept.size - 20)] * 3
    assert "Sufficiency" in report(tmp_path / "out", tmp_path / "report.html").read_text()


def test_the_share_that_is_recovered() -> None:
    """By plain counting; where nothing is lost, there is no share."""
    random = np.random.default_rng(0)
    category = np.repeat(np.arange(2), 5).astype(np.uint8)
    baseline, all_off = random.uniform(1, 2, 10), random.uniform(3, 4, (2, 10))
    all_off[:, category == 1] = baseline[category == 1] - 0.5
    nll = (baseline + all_off) / 2 + random.normal(0, 0.1, (2, 10))
    drawn = random.uniform(1, 4, (5, 2, 2))
    weights = np.concatenate([one_hot(category[None], 2), bootstrap_weights(category, 2, 200, random)])
    effects = Effects(Measured(np.array([3, 4]), nll, {"random": drawn}, Kept(np.array([7, 6]), all_off)), baseline,
                      weights)  # fmt: skip
    found = effects.sufficiency
    assert found is not None
    for kept in range(2):
        of = category == 0
        untouched, without, with_kept = baseline[of].mean(), all_off[kept][of].mean(), nll[kept][of].mean()
        assert found.recovered[kept, 0] == pytest.approx((without - with_kept) / (without - untouched))
        assert found.by_chance["random"][kept, 0] == pytest.approx(
            np.mean([(without - one) / (without - untouched) for one in drawn[:, kept, 0]])
        )
        low, high = found.interval
        assert low[kept, 0] < found.recovered[kept, 0] < high[kept, 0]
    assert np.isnan(found.recovered[:, 1]).all()
    assert np.array_equal(effects.summary()["recovered"], found.recovered, equal_nan=True)
    assert Effects(Measured(np.array([3, 4]), nll, {}), baseline, weights).sufficiency is None


def test_experts_cannot_be_kept_without_any_others(moe: ModelDir, instruction_file: Path, tmp_path: Path) -> None:
    run = capture(moe, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    (units,) = sj.select(run, SelectSettings(size=5, expert_size=1, control_length=False))
    with pytest.raises(InputError, match="no token can be routed then"):
        ablate(moe, run, units, tmp_path / "out", replace(SETTINGS, doses=""), EXECUTION)
    assert not (tmp_path / "out").exists()
