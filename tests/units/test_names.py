"""Names of units: there and back, and what is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparcom_jax.errors import InputError
from sparcom_jax.units.groups import Group, expert_group
from sparcom_jax.units.names import unit_name, unit_of

ROUTED = Group("routed", (1, 3), ("expert", "neuron"), (4, 6))
GROUPS = {
    "mlp": Group("mlp", (0, 2), ("neuron",), (9,)),
    "shared": Group("shared", (1, 3), ("neuron",), (7,)),
    "routed": ROUTED,
    "expert": expert_group(ROUTED),
}


@given(st.sampled_from(list(GROUPS.values())), st.data())
def test_a_name_is_read_back(group: Group, data: st.DataObject) -> None:
    index = tuple(data.draw(st.integers(0, size - 1)) for size in group.shape)
    assert unit_of(unit_name(group, index), GROUPS) == (group, index)


def test_names() -> None:
    assert unit_name(GROUPS["mlp"], (1, 8)) == "L2.N8"
    assert unit_name(GROUPS["shared"], (0, 6)) == "L1.S.N6"
    assert unit_name(ROUTED, (1, 3, 5)) == "L3.E3.N5"
    assert unit_name(GROUPS["expert"], (0, 2)) == "L1.E2"


@pytest.mark.parametrize(("name", "message"), [
    ("L1", "has no such form as"), ("12.N3", "has no such form"), ("L1.S", "has no such form"),
    ("", "has no such form"),
    ("L1.N3", "layer 1 of the model has no units of this kind"), ("L9.E1", "layer 9 of the model has no units"),
    ("L0.S.N1", "layer 0 of the model has no units"), ("L3.E4.N0", "has 4 x 6 units of this kind in a layer"),
    ("L2.N9", "has 9 units of this kind in a layer"), ("L1.E4", "has 4 units of this kind"),
])  # fmt: skip
def test_what_is_no_unit(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        unit_of(name, GROUPS)
