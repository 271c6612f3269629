"""Core, unique and general units against plain counting, unit by unit."""

import numpy as np
import pytest

from sparcom_jax.errors import InputError
from sparcom_jax.select.cores import core, general, unique
from sparcom_jax.store.run import Run
from sparcom_jax.store.sets import Sets, open_sets
from sparcom_jax.store.units import open_units, write_units
from tests.synthetic import MIXED, Masks, make_run, random_masks, write_sets

LABELS = [0] * 9 + [1] * 5 + [2] * 4
RHO = 0.4


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("cores") / "run", LABELS, groups=MIXED)


@pytest.fixture(scope="module")
def masks(run: Run) -> Masks:
    return random_masks(run, share=0.5)


@pytest.fixture(scope="module")
def sets(run: Run, masks: Masks) -> Sets:
    write_sets(run, masks)
    return open_sets(run, "excess")


def counted(mask: np.ndarray) -> tuple[np.ndarray, list[set[int]]]:
    """Shares [C, U], and the core of each category."""
    flat = mask.reshape(len(mask), -1)
    shares = np.array([[sum(flat[i, u] for i, c in enumerate(LABELS) if c == category) / LABELS.count(category)
                        for u in range(flat.shape[1])] for category in range(3)])  # fmt: skip
    return shares, [{u for u, share in enumerate(mine) if share >= RHO} for mine in shares]


def test_core_unique_and_general_units(run: Run, sets: Sets, masks: Masks) -> None:
    found = {units.selector: units for units in (core(sets, RHO), unique(sets, RHO), general(sets, RHO))}
    assert list(found) == ["core", "unique", "general"]
    sizes = dict.fromkeys(found, 0)
    for group, mask in masks.items():
        shares, cores = counted(mask)
        for category in range(3):
            others = set().union(*(cores[other] for other in range(3) if other != category))
            expected = {"core": cores[category], "unique": cores[category] - others,
                        "general": set.intersection(*cores)}  # fmt: skip
            for name, units in found.items():
                assert set(np.flatnonzero(units.mask[group][category])) == expected[name]
                assert units.score[group].shape == units.mask[group].shape == (3, *run.groups[group].shape)
                np.testing.assert_allclose(units.score[group][category].reshape(-1), shares[category], rtol=1e-6)
                sizes[name] += len(expected[name])
    assert all(sizes.values())
    for units in found.values():
        assert units.origin["rho"] == RHO
        assert units.origin["set"] == sets.record()
        write_units(run, units.selector, units)
        assert open_units(run, units.selector).digest == units.digest


def test_what_is_refused(run: Run, sets: Sets, masks: Masks) -> None:
    for rho in (0.0, 1.5):
        with pytest.raises(InputError, match=rf"rho must be within \(0, 1\], got {rho}"):
            core(sets, rho)
    empty = dict(masks)
    empty["mlp"] = masks["mlp"].copy()
    empty["mlp"][3] = False
    write_sets(run, empty, "empty")
    with pytest.raises(InputError, match=r"set 'empty': S\(i\) has no unit of mlp for 1 of 18 instructions \(CLS 1\)"):
        core(open_sets(run, "empty"), RHO)
