"""What a summary holds, kind by kind, for those who write it and those who read it."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

SUMMARY = "summary.json"
RESULTS_VERSION = 5
"""Of what result directories hold; `schema_version` of a summary."""

NUMBER = (int, float, type(None))
"""A number; None where it is not defined."""
DEFINED = (int, float)
MATRIX = [[NUMBER]]
ALIGNED = ("spearman", "spearman_over_others", "overlap", "overlap_over_others")
"""What an alignment says of each category, and group of units."""
SET = {"name": str, "run": str, "digest": str}
UNITS = SET | {"selector": str}
UNITS_FROM = {"model": {"source": str}, "instructions": {"source": str}, "instructions_in_common": int}
SIDE = {"run": str, "model": {"family": str}, "set": SET, "groups": {"*": {"units": int, "layers": [int]}}}
CONTROL = {"mean": MATRIX, "low": MATRIX, "high": MATRIX, "p_value": MATRIX, "q_value": MATRIX, "smallest_p": NUMBER,
           "selectivity_mean": [NUMBER], "p_selectivity": [NUMBER], "q_selectivity": [NUMBER]}  # fmt: skip
EXAMPLE = {"id": str, "category": str, "most": DEFINED, "frequency": DEFINED}
EXAMPLE_TEXT = {"tokens": [str], "activations": [DEFINED], "at": int, "counted": [int], "left_out": [int]}
SHAPES: dict[str, dict[str, Any]] = {
    "evaluate": {
        "run": str, "model": {"family": str}, "set": SET, "settings": dict, "categories": [str], "instructions": [int],
        "groups": {"*": {"units": int, "layers": [int], "mean_set_size": NUMBER, "spearman_size_token_count": NUMBER,
                         "overlap_explained_by": {"*": NUMBER}, "general_units": int}},
        "cautions": [str],
    },
    "compare": {
        "base": SIDE, "tuned": SIDE, "settings": dict, "categories": [str], "capture_differences": {"*": list},
        "absent": {"*": str},
    },
    "sweep": {
        "run": str, "model": {"family": str}, "counts": SET, "settings": dict, "swept": str, "categories": [str],
        "groups": {"*": {"units": int, "layers": [int]}},
    },
    "agree": {
        "run": str, "model": {"family": str}, "counts": SET, "settings": dict, "categories": [str], "selectors": [str],
    },
    "ablate": {
        "run": str, "model": {"family": str}, "settings": dict, "categories": [str], "controls": {"*": str},
        "absent": {"*": str},
        "targets": {"*": {"units_off": [int], "delta": MATRIX, "ci_low": MATRIX, "ci_high": MATRIX,
                          "selectivity": [NUMBER], "selectivity_low": [NUMBER], "selectivity_high": [NUMBER],
                          "controls": {"*": CONTROL}}},
    },
    "answer": {
        "run": str, "model": {"family": str}, "units": UNITS, "settings": dict, "categories": [str], "asked": [int],
        "held_out": int, "targets": [str],
    },
    "steer": {
        "run": str, "model": {"family": str}, "settings": dict, "categories": [str], "steered": [str], "asked": [int],
        "held_out": int,
    },
    "finetune": {
        "model": {"family": str, "path": str, "digest": str, "parameters": int}, "instructions": {"source": str},
        "run": str, "train": SET | {"kind": str, "parameters": int}, "settings": dict, "categories": [str],
        "learnt": [int], "steps": int, "of_steps": int, "kept": int, "bytes": {"*": int}, "held_out": int,
        "tokens_per_second": NUMBER,
    },
    "tunings": {
        "run": str, "model": {"family": str}, "counts": SET, "settings": dict, "tune": {"*": dict}, "trained": str,
        "tuned": [str], "categories": [str], "learnt": [int], "held_out": int,
    },
    "align": {
        "run": str, "model": {"family": str}, "attribution": SET | {"method": str}, "settings": dict,
        "categories": [str], "instructions": [int],
        "groups": {"*": {"units": int, "layers": [int], "chance": NUMBER, **{field: [NUMBER] for field in ALIGNED}}},
    },
    "explore": {
        "run": str, "model": {"family": str}, "units": UNITS, "settings": dict, "categories": [str], "texts": int,
        "read": int, "sample": int,
        "cards": [{"unit": str, "group": str, "layer": int, "of": {"*": {"rank": int, "score": DEFINED}},
                   "frequency": {"*": [DEFINED]}, "examples": [EXAMPLE]}],
    },
}  # fmt: skip
"""What a summary holds at least: a type, the fields of an object (`*`: any), or a list of one shape."""


def fault(summary: Mapping[str, Any]) -> str | None:
    """What is wrong with a summary, of whatever kind it says that it is; None if nothing is."""
    kind = summary["kind"]
    shape = SHAPES[kind]
    if kind in ("ablate", "steer"):
        shape = shape | ({"units": UNITS} if "units" in summary else {"set": SET})
        shape = shape | ({"units_from": UNITS_FROM} if "units_from" in summary else {})
    if kind == "explore" and summary.get("texts"):
        shape = shape | {"cards": [shape["cards"][0] | {"examples": [EXAMPLE | EXAMPLE_TEXT]}]}
    return _misshapen(summary, shape, "") or next(_of_another_size(summary, kind), None)


def made_of(side: Mapping[str, Any]) -> dict[str, Any]:
    """What is recorded of the set, units, attribution or counts that results were made of, or of what was trained.

    Args:
      side: a part of a summary that describes a model, its run and what of it was analysed.
    """
    made: dict[str, Any] = side[kind_made_of(side)]
    return made


def kind_made_of(side: Mapping[str, Any]) -> str:
    """Which of them it is: `units`, `attribution`, `counts`, `train` or `set`."""
    return next((kind for kind in ("units", "attribution", "counts", "train") if kind in side), "set")


def _misshapen(value: object, shape: Any, where: str) -> str | None:
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return f"{where}not an object"
        for key in value if "*" in shape else shape:
            if key not in value:
                return f"{where}no field {key!r}"
            if found := _misshapen(value[key], shape.get("*", shape.get(key)), f"{where}{key}: "):
                return found
    elif isinstance(shape, list):
        if not isinstance(value, list):
            return f"{where}not a list"
        return next((found for entry in value if (found := _misshapen(entry, shape[0], where))), None)
    elif not isinstance(value, shape) or isinstance(value, bool):
        return f"{where}{value!r} is of the wrong type"
    elif isinstance(value, float) and not math.isfinite(value):
        return f"{where}{value!r} is not a number"
    return None


def _of_another_size(summary: Mapping[str, Any], kind: str) -> Iterator[str]:
    """Fields that do not have one entry per category, as they should."""
    size = len(summary["categories"])
    by_category = {"instructions": [summary["instructions"]]} if kind in ("evaluate", "align") else {}
    for name, group in summary["groups"].items() if kind == "align" else ():
        by_category |= {f"groups: {name}: {field}": [group[field]] for field in ALIGNED}
    for target, entry in summary["targets"].items() if kind == "ablate" else ():
        shapes = SHAPES["ablate"]["targets"]["*"]
        parts = [(target, entry, shapes), *((f"{target}: controls: {name}", one, CONTROL)
                                            for name, one in entry["controls"].items())]  # fmt: skip
        for where, values, shape_of in parts:
            for field, shape in shape_of.items():
                if isinstance(shape, list):
                    inner = values[field] if shape is MATRIX else ()
                    by_category[f"targets: {where}: {field}"] = [values[field], *inner]
    by_category |= {"asked": [summary["asked"]]} if kind in ("answer", "steer") else {}
    by_category |= {"learnt": [summary["learnt"]]} if kind in ("finetune", "tunings") else {}
    for card in summary["cards"] if kind == "explore" else ():
        by_category[f"cards: {card['unit']}: frequency"] = [list(card["frequency"])]
    for field, lists in by_category.items():
        if any(len(values) != size for values in lists):
            yield f"{field}: not of the size of the {size} categories"
