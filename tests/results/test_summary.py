import json
from typing import Any

import pytest

from sparcom_jax.results.summary import fault

SET = {"name": "frequency", "run": "/runs/base", "digest": "0"}
MATRIX = [[0.5, None], [1, -2.5]]
ABLATION: dict[str, Any] = {
    "kind": "ablate", "run": "runs/base", "model": {"family": "llama"}, "set": SET, "settings": {},
    "categories": ["A", "B"],
    "controls": {"random": "units"}, "absent": {},
    "targets": {"neurons": {
        "units_off": [1, 2], **dict.fromkeys(("delta", "ci_low", "ci_high"), MATRIX),
        **dict.fromkeys(("selectivity", "selectivity_low", "selectivity_high"), MATRIX[0]),
        "controls": {"random": {
            **dict.fromkeys(("mean", "low", "high", "p_value", "q_value"), MATRIX), "smallest_p": 0.1,
            **dict.fromkeys(("selectivity_mean", "p_selectivity", "q_selectivity"), MATRIX[0]),
        }},
    }},
}  # fmt: skip
SIDE = {"run": "runs/base", "model": {"family": "llama"}, "set": SET, "groups": {"mlp": {"units": 3, "layers": [0]}}}
COMPARISON = {"kind": "compare", "base": SIDE, "tuned": SIDE, "settings": {}, "categories": ["A", "B"],
              "capture_differences": {"scope": ["prompt", None]}, "absent": {"units.csv": "a reason"}}  # fmt: skip


def test_whole_summaries_have_no_fault() -> None:
    assert fault(ABLATION) is None
    assert fault(COMPARISON) is None
    assert fault(ABLATION | {"more": object()}) is None


@pytest.mark.parametrize(("summary", "path", "value", "found"), [
    (ABLATION, ["run"], 3, "run: 3 is of the wrong type"),
    (ABLATION, ["categories", 0], None, "categories: None is of the wrong type"),
    (ABLATION, ["settings"], [], "settings: [] is of the wrong type"),
    (ABLATION, ["targets"], [], "targets: not an object"),
    (ABLATION, ["targets", "neurons", "units_off", 1], True, "targets: neurons: units_off: True is of the wrong type"),
    (ABLATION, ["targets", "neurons", "delta", 1, 0], float("nan"), "targets: neurons: delta: nan is not a number"),
    (ABLATION, ["targets", "neurons", "delta", 1], 0.5, "targets: neurons: delta: not a list"),
    (ABLATION, ["targets", "neurons", "delta", 1], [0], "targets: neurons: delta: not of the size of the 2 categories"),
    (ABLATION, ["targets", "neurons", "units_off"], [1], "targets: neurons: units_off: not of the size of the 2 cat"),
    (ABLATION, ["targets", "neurons", "controls", "random", "mean"], [[1, 2]],
     "targets: neurons: controls: random: mean: not of the size of the 2 categories"),
    (COMPARISON, ["tuned", "set"], {}, "tuned: set: no field 'name'"),
    (COMPARISON, ["base", "groups", "mlp", "layers"], [0.5], "base: groups: mlp: layers: 0.5 is of the wrong type"),
    (COMPARISON, ["absent", "units.csv"], None, "absent: units.csv: None is of the wrong type"),
])  # fmt: skip
def test_the_first_fault_is_named(summary: dict[str, Any], path: list[Any], value: Any, found: str) -> None:
    broken: Any = json.loads(json.dumps(summary))
    inner = broken
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert (fault(broken) or "").startswith(found)
