"""The config: every field from the command line of every launcher that reads it, and what is refused by name."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from sparcom_jax.errors import InputError
from sparcom_jax.identify.selection import OF_NEURONS
from sparcom_jax.settings import SHARED, checked, default_config, require_read

ROOT = Path(__file__).resolve().parents[1]
OTHER = {
    "instructions": "rows.jsonl", "set_name": "other", "scope": "response", "template": "chat", "convention": "product",
    "keep": "sets", "placement": "mesh", "dtype": "bfloat16", "selector": "threshold", "ties": "drop",
}  # fmt: skip
# Runs a launcher of which the step itself is replaced by one that prints its arguments.
DRIVER = """
import dataclasses, json, runpy, sys
import sparcom_jax.capture.engine, sparcom_jax.causal.ablate, sparcom_jax.convert.model_dir
import sparcom_jax.instructions.rows, sparcom_jax.select.cores, sparcom_jax.settings, sparcom_jax.store.run
import sparcom_jax.store.sets, sparcom_jax.store.units, sparcom_jax.study as study
from types import SimpleNamespace

def show(*arguments):
    arguments = [sparcom_jax.settings.checked(one) if hasattr(one, "to_dict") else one for one in arguments]
    made = [dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for one in arguments]
    print(json.dumps([one for one in made if isinstance(one, dict)]))

sparcom_jax.capture.engine.capture = sparcom_jax.causal.ablate.ablate = study.analyze = show
sparcom_jax.convert.model_dir.open_model = lambda path: None
sparcom_jax.store.run.open_run = lambda path: SimpleNamespace(require_complete=lambda: None)
sparcom_jax.store.sets.open_sets = lambda run, name: name
sparcom_jax.select.cores.core = lambda sets, rho: {"set": sets, "rho": rho}
sparcom_jax.store.units.open_units = lambda run, name: {"units": name}
sparcom_jax.instructions.rows.load_instructions = lambda path: None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def other(name: str, value: Any) -> Any:
    """A value that a field may have too."""
    if isinstance(value, bool):
        return not value
    return OTHER[name] if isinstance(value, str) else value / 2 + 0.125 if isinstance(value, float) else value + 2


def flag(name: str, value: Any) -> str:
    return f"--config.{name}={json.dumps(value) if not isinstance(value, str) else value}"


def launched(launcher: str, *flags: str) -> list[dict[str, Any]]:
    path = str(ROOT / "launch" / f"{launcher}.py")
    result = subprocess.run([sys.executable, "-c", DRIVER, path, *flags], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    made: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[0])
    return made


SECTIONS: dict[str, dict[str, Any]] = {
    section: {name: other(name, value) for name, value in fields.items()}
    for section, fields in default_config().to_dict().items()
    if isinstance(fields, dict) and section != "pairs"
}


def test_every_field_of_a_capture_arrives() -> None:
    of_neurons = {name: SECTIONS["identify"][name] for name in OF_NEURONS}
    flags = [flag(f"capture.{name}", value) for name, value in SECTIONS["capture"].items()]
    flags += [flag(f"identify.{name}", value) for name, value in of_neurons.items()]
    settings, selection = launched("capture", "--model=m", "--instructions=i", "--output=o", *flags)
    assert settings == SECTIONS["capture"]
    assert selection == default_config().identify.to_dict() | of_neurons


def test_every_field_of_an_ablation_arrives() -> None:
    shared = {name: SECTIONS["capture"][name] for name in SHARED}
    flags = [flag(f"ablate.{name}", value) for name, value in SECTIONS["ablate"].items()]
    flags += [flag(f"capture.{name}", value) for name, value in shared.items()]
    units, settings = launched("ablate", "--model=m", "--run=r", "--output=o", "--set=s", *flags)
    assert units == {"set": "s", "rho": SECTIONS["ablate"]["rho"]}
    assert settings == SECTIONS["ablate"] | shared
    units, _ = launched("ablate", "--model=m", "--run=r", "--output=o", "--units=u", "--config.ablate.draws=3")
    assert units == {"units": "u"}


def test_every_field_of_a_study_arrives() -> None:
    wanted = SECTIONS | {name: OTHER[name] for name in ("instructions", "set_name")} | {"pairs": {"a": {"base": "x"}}}
    assert wanted.keys() == set(default_config())
    flags = [flag(f"{section}.{name}", value) for section, fields in SECTIONS.items() for name, value in fields.items()]
    flags += [flag(name, wanted[name]) for name in ("instructions", "set_name", "pairs")]
    (settings,) = launched("analyze", "--config=configs/default.py", "--output=o", *flags)
    assert settings == wanted


def test_a_field_of_a_pair_arrives() -> None:
    flags = ("--config=configs/demo.py", "--config.pairs.moe.train.base_steps=7", "--output=o")
    (settings,) = launched("analyze", *flags)
    assert settings["pairs"]["moe"]["train"]["base_steps"] == 7


@pytest.mark.parametrize("override", ["identify.epsilon", "identify", "set_name", "capture.x", "pairs", "capture2.a"])
def test_overrides_that_are_not_read(override: str) -> None:
    with pytest.raises(InputError, match=rf"^--config\.{override} has no effect on this command, which reads this$"):
        require_read(["capture.a", override], ["capture.a", "capture.b"], "this")


def test_overrides_that_are_read_in_any_spelling() -> None:
    require_read(["capture.a", "capture['b']", "capture"], ["capture.a", "capture.b"], "this")


@pytest.mark.parametrize(("field", "value", "message"), [
    ("capture.max_tokens", None, "config field capture.max_tokens must be of type int, got None"),
    ("capture.max_tokens", 1.5, "config field capture.max_tokens must be of type int, got 1.5"),
    ("capture.max_tokens", True, "config field capture.max_tokens must be of type int, got True"),
    ("capture.truncate", 1, "config field capture.truncate must be of type bool, got 1"),
    ("compare.rho", "half", "config field compare.rho must be of type float, got 'half'"),
    ("evaluate.shuffles", 3, "config field evaluate.shuffles is not known; known: bootstraps, permutations"),
    ("evaluation", 3, "config field evaluation is not known"),
    ("capture", None, "config field capture must be of type dict, got None"),
    ("capture", {"max_tokens": 3}, "config field capture.batch_tokens is missing"),
    ("pairs", [], r"config field pairs must be of type dict, got \[\]"),
])  # fmt: skip
def test_fields_of_a_study_file_at_fault(field: str, value: Any, message: str) -> None:
    values = default_config().to_dict()
    *sections, name = field.split(".")
    (values[sections[0]] if sections else values)[name] = value
    with pytest.raises(InputError, match=f"^{message}"):
        checked(ConfigDict(values))


def test_what_a_run_could_not_record() -> None:
    config = default_config()
    config.pairs = ConfigDict({"a": {"train": {"fields": {"model_type": object()}}}})
    with pytest.raises(InputError, match=r"^the config cannot be recorded: "):
        checked(config)


def test_a_section_that_is_missing_and_a_whole_number_for_a_float() -> None:
    values = default_config().to_dict()
    values["identify"]["epsilon"] = 1
    assert checked(ConfigDict(values))["identify"]["epsilon"] == 1
    del values["compare"]
    with pytest.raises(InputError, match=r"^config field compare is missing"):
        checked(ConfigDict(values))
