"""Experts that are masked, zeroed or forced, against a transformers model with patched routers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch

import sparcom_jax as sj
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.causal.settings import AblationSettings
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError
from sparcom_jax.models.config import Experts
from sparcom_jax.models.routing import route
from sparcom_jax.report.page import report
from sparcom_jax.store.units import origin_of
from sparcom_jax.units.unit_set import UnitSet
from sparcom_jax.verify.reference import Reference
from tests.causal.references import reference_nll, table

SETTINGS = AblationSettings(draws=1, per_category=2, bootstraps=3, measured="all")
EXECUTION = ExecutionSettings(batch_tokens=512)


@pytest.fixture(scope="module")
def run(moe: ModelDir, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> sj.Run:
    path = tmp_path_factory.mktemp("experts") / "run"
    return capture(moe, sj.load_instructions(instruction_file), path, execution=EXECUTION)


def experts_of(run: sj.Run, count: int, group: str = "expert") -> UnitSet:
    """So many experts of each layer, others for each category."""
    shape = run.groups[group].shape
    mask = np.zeros((3, *shape), bool)
    for category in range(3):
        mask[category, :, category : category + count] = True
    return UnitSet(run.categories, {group: run.groups[group]}, {group: mask.astype(np.float32)}, {group: mask},
                   origin_of(run, "some", size=count))  # fmt: skip


def patch(reference: Reference, layers: tuple[int, ...], mask: np.ndarray, experts: str) -> None:
    """Routers that act on the experts of a mask `[L, E]`."""
    for index, layer in enumerate(layers):
        gate, of = reference.model.model.layers[layer].mlp.gate, torch.tensor(mask[index])

        def forward(x: Any, gate: Any = gate, of: Any = of) -> Any:
            logits = torch.nn.functional.linear(x.reshape(-1, x.shape[-1]), gate.weight)
            score = logits.log_softmax(-1)
            if experts == "mask":
                score = score.masked_fill(of, float("-inf"))
            if experts == "force":
                score = torch.where(of, score.max(-1, keepdim=True).values + 0.01, score)
            weight, chosen = score.softmax(-1).topk(gate.top_k, -1)
            return logits, weight * ~of[chosen] if experts == "zero" else weight, chosen

        gate.forward = forward


@pytest.mark.parametrize(("experts", "keep"), [("zero", False), ("zero", True), ("force", False)])
def test_experts(experts: str, keep: bool, moe: ModelDir, hf_moe: Path, run: sj.Run, tmp_path: Path) -> None:
    units, off = experts_of(run, 2), 1
    summary = ablate(moe, run, units, tmp_path / "out", replace(SETTINGS, experts=experts, keep=keep), EXECUTION)
    scored = [[row for row in run.instructions if row["category"] == name][:2] for name in run.categories]
    reference, mask = Reference(hf_moe), units.mask["expert"][off]
    patch(reference, run.groups["expert"].layers, ~mask if keep else mask, experts)
    delta = [reference_nll(reference, moe, rows).mean() - base
             for rows, base in zip(scored, summary["baseline"], strict=True)]  # fmt: skip
    assert np.abs(delta).max() > 1e-3
    np.testing.assert_allclose(summary["targets"]["experts"]["delta"][off], delta, atol=2e-4)
    if keep:
        patch(reference, run.groups["expert"].layers, np.ones_like(mask), experts)
        rows = [row for row in table(tmp_path / "out" / "sufficiency.csv") if row["category_kept"] == "B"]
        np.testing.assert_allclose([float(row["nll_all_off"]) for row in rows],
                                   [reference_nll(reference, moe, of).mean() for of in scored], atol=2e-4)  # fmt: skip
    page = report(tmp_path / "out", tmp_path / "report.html").read_text()
    assert ("experts of the category forced" in page) == (experts == "force")


def test_an_expert_that_is_forced_is_chosen_in_whatever_group() -> None:
    random = np.random.default_rng(0)
    logits = random.standard_normal((30, 12)).astype(np.float32) * 3
    forced = np.zeros((30, 12), bool)
    for row in forced:
        row[random.choice(12, random.integers(0, 4), replace=False)] = True
    for experts in (
        Experts(12, 3, 8, normalize=False),
        Experts(12, 3, 8, normalize=True, groups=4, groups_per_token=1),
    ):
        chosen, weight = route(jnp.asarray(logits), experts, jnp.ones(30, bool), forced=jnp.asarray(forced))
        for row in range(30):
            wanted = np.flatnonzero(forced[row])
            assert {*wanted} <= {*np.asarray(chosen[row]).tolist()}
            of_forced = np.asarray(weight[row])[np.isin(chosen[row], wanted)]
            np.testing.assert_allclose(of_forced, weight[row].max() if len(wanted) else 0, rtol=1e-6)
        nobody = route(jnp.asarray(logits), experts, jnp.ones(30, bool), forced=jnp.zeros((1, 12), bool))
        plain = route(jnp.asarray(logits), experts, jnp.ones(30, bool))
        np.testing.assert_array_equal(nobody[0], plain[0])
        np.testing.assert_allclose(nobody[1], plain[1], rtol=1e-5)


def test_what_cannot_be_done_with_experts_is_refused(
    moe: ModelDir, llama: ModelDir, run: sj.Run, instruction_file: Path, tmp_path: Path, capsys: Any
) -> None:
    for units, more, message in (
        (experts_of(run, 2), {"experts": "some"}, "experts 'some' is not known; known: mask, zero, force"),
        (experts_of(run, 2), {"experts": "force", "keep": True}, "experts force switches nothing off; give one"),
        (experts_of(run, 2), {"keep": True}, "no token can be routed then; use experts=zero, or units without experts"),
        (experts_of(run, 3), {"experts": "force"}, "the some experts of A are 3 in layer 1, but a token is "
                                                   "routed to 2, so that not all can be forced; use units with fewer"),
        (experts_of(run, 2, "routed"), {"experts": "zero"}, "experts zero has no effect: the units have no experts"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=message):
            ablate(moe, run, units, tmp_path / "out", replace(SETTINGS, **more), EXECUTION)
    assert not (tmp_path / "out").exists()
    dense = capture(llama, sj.load_instructions(instruction_file), tmp_path / "run", execution=EXECUTION)
    ablate(llama, dense, experts_of(dense, 2, "mlp"), tmp_path / "out", replace(SETTINGS, experts="zero"), EXECUTION)
    assert "experts zero has no effect: the model has no routed experts" in capsys.readouterr().err
