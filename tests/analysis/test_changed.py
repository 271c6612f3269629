"""Units that tuning gained and lost, by name, against scipy's exact test unit by unit."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.settings import CompareSettings
from sparcom_jax.units.names import unit_of
from tests.synthetic import MIXED, make_pair
from tests.synthetic_results import read_table

LABELS = [i % 3 for i in range(18)]


def test_units_that_changed_most_are_named_with_exact_p_values(tmp_path: Path) -> None:
    base, tuned, before, after = make_pair(tmp_path, LABELS, groups=MIXED)
    compare(base, tuned, tmp_path / "out", CompareSettings(permutations=9, bootstraps=9))
    rows = read_table(tmp_path / "out/changed_units.csv")
    assert {row["group"] for row in rows} == set(before)
    for c, category in enumerate(base.categories):
        of = np.flatnonzero(np.asarray(LABELS) == c)
        for group in before:
            counts = [masks[group][of].reshape(len(of), -1).sum(axis=0).astype(int) for masks in (before, after)]
            largest = np.sort(np.abs(counts[1] - counts[0]))[::-1]
            listed = [row for row in rows if (row["group"], row["category"]) == (group, category)]
            assert [abs(float(row["change"])) for row in listed] == pytest.approx(
                [value / len(of) for value in largest[:50] if value]
            )
            for row in listed:
                _, place = unit_of(row["unit"], base.groups)
                unit = int(np.ravel_multi_index(place, base.groups[group].shape))
                held, now = counts[0][unit], counts[1][unit]
                assert float(row["share_base"]) == pytest.approx(held / len(of))
                assert float(row["share_tuned"]) == pytest.approx(now / len(of))
                table = [[held, len(of) - held], [now, len(of) - now]]
                tails = [stats.fisher_exact(table, alternative=side).pvalue for side in ("less", "greater")]
                assert float(row["p_value"]) == pytest.approx(min(2 * min(tails), 1))
                assert float(row["q_value"]) >= float(row["p_value"])
                core = [count / len(of) >= 0.5 for count in (held, now)]
                kept = {(True, True): "retained", (False, True): "gained", (True, False): "lost"}
                assert row["core"] == kept.get((core[0], core[1]), "")
