"""The table of a unit set, against loops over its arrays."""

import numpy as np
import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.units.names import unit_of
from tests.units.test_unit_set import CATEGORIES, GROUPS, unit_set

EXPERTS = ("expert",)
NEURONS = ("mlp", "routed")


def test_every_unit_of_every_category_has_a_row() -> None:
    units = unit_set()
    table = units.table()
    assert [*table.columns] == ["unit", "category", "group", "layer", "expert", "neuron", "rank", "score"]
    assert len(table) == sum(int(mask.sum()) for mask in units.mask.values())
    assert not table.duplicated(["unit", "category"]).any()
    for row in table.itertuples():
        group, index = unit_of(row.unit, GROUPS)
        category = CATEGORIES.index(row.category)
        assert group.name == row.group
        assert units.mask[row.group][(category, *index)]
        assert row.score == units.score[row.group][(category, *index)]
        assert row.layer == group.layers[index[0]]
        named = dict(zip(group.dims, index[1:], strict=True))
        for dim in ("expert", "neuron"):
            value = getattr(row, dim)
            assert (value == named[dim]) if dim in named else (value is table[dim].dtype.na_value)


def test_ranks_are_by_score_among_neurons_and_among_experts() -> None:
    units = unit_set()
    for category in range(2):
        for groups in (NEURONS, EXPERTS):
            table = units.table(CATEGORIES[category])
            own = table[table.group.isin(groups)]
            scores = sorted(
                (float(s) for name in groups for s in units.score[name][category][units.mask[name][category]]),
                reverse=True,
            )
            assert own["rank"].tolist() == list(range(1, len(scores) + 1))
            assert own.score.tolist() == scores
            first = units.table(CATEGORIES[category], top=2)
            assert first[first.group.isin(groups)].unit.tolist() == own.unit.tolist()[:2]


def test_units_that_tie_come_by_group_and_place() -> None:
    score = {name: np.zeros((2, *group.shape), np.float32) for name, group in GROUPS.items()}
    units = unit_set(score=score)
    assert units.table("B", top=1).unit.tolist() == [
        f"L{GROUPS['mlp'].layers[(at := np.argwhere(units.mask['mlp'][1])[0])[0]]}.N{at[1]}",
        f"L1.E{np.argwhere(units.mask['expert'][1])[0][1]}",
    ]


def test_no_units_and_bad_input() -> None:
    none = {name: np.zeros((2, *group.shape), bool) for name, group in GROUPS.items()}
    table = unit_set(mask=none).table()
    assert (len(table), len(table.columns)) == (0, 8)
    with pytest.raises(InputError, match="the units: no category 'C'; there are A/a, B"):
        unit_set().table("C")
    with pytest.raises(InputError, match="top must not be negative, got -1"):
        unit_set().table(top=-1)
