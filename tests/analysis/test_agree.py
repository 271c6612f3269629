"""Agreement of selectors against the units that they choose, by Python sets."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax.analysis.agree import agree
from sparcom_jax.analysis.settings import AgreeSettings
from sparcom_jax.errors import InputError
from sparcom_jax.report.page import report
from tests import oracles_evaluate as oracle
from tests.synthetic import MIXED, make_run

LABELS = [i % 3 for i in range(24)]
SELECTION = sj.SelectSettings(size=9, expert_size=1, half="second")


def test_agreement_is_that_of_the_units_that_select_chooses(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED)
    names = ("auroc", "difference", "risk_difference")
    unlike = dataclasses.replace(SELECTION, control_length=False)  # of no concern to an agreement
    agree(run, tmp_path / "out/agree", unlike, AgreeSettings(",".join(names)))
    assert not any(name.startswith("units/") for name in run.store.names())
    with (tmp_path / "out/agree/agreement.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    alone = sj.SelectSettings("risk_difference", size=1, half="second")
    units = {of.selector: of for of in (*sj.select(run, dataclasses.replace(SELECTION, selector="auroc,difference")),
                                        *sj.select(run, alone))}  # fmt: skip
    assert {(row["target"], row["selector_a"], row["selector_b"]) for row in rows} == {
        ("neurons", "auroc", "difference"), ("experts", "auroc", "difference"),
        ("experts", "auroc", "risk_difference"), ("experts", "difference", "risk_difference"),
    }  # fmt: skip
    for row in rows:
        pair = [units[row[side]] for side in ("selector_a", "selector_b")]
        groups = ["expert"] if row["target"] == "experts" else [name for name in MIXED if name != "expert"]
        c = run.categories.index(row["category"])
        chosen = [{(group, *place) for group in groups for place in np.argwhere(of.mask[group][c]).tolist()}
                  for of in pair]  # fmt: skip
        assert [int(row["units_a"]), int(row["units_b"])] == [len(of) for of in chosen] == [len(chosen[0])] * 2
        assert int(row["common"]) == len(chosen[0] & chosen[1])
        assert float(row["jaccard"]) == pytest.approx(len(chosen[0] & chosen[1]) / len(chosen[0] | chosen[1]))
        expected = sum(
            sum(place[1] == layer for place in chosen[0] if place[0] == group)
            * sum(place[1] == layer for place in chosen[1] if place[0] == group)
            / pair[0].mask[group][c, layer].size
            for group in groups
            for layer in range(len(run.groups[group].layers))
        )
        assert float(row["chance"]) == pytest.approx(expected / (2 * len(chosen[0]) - expected))
        scores = [np.concatenate([of.score[group][c].reshape(-1) for group in groups]).tolist() for of in pair]
        assert float(row["spearman"]) == pytest.approx(oracle.pearson(*map(oracle.ranks, scores)))
    page = report(tmp_path / "out", tmp_path / "report.html").read_text()
    assert 'id="selectors-agree-agree"' in page
    assert "selectors-agree-agree-neurons-agreement" in page


def test_one_selector_agrees_with_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, groups=MIXED)
    with pytest.raises(InputError, match="selectors 'auroc' are not two or more, with commas between"):
        agree(run, tmp_path / "out", settings=AgreeSettings("auroc"))
    with pytest.raises(InputError, match="selector 'best' is not known"):
        agree(run, tmp_path / "out", settings=AgreeSettings("auroc,best"))
    assert not (tmp_path / "out").exists()
