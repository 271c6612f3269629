"""What every launcher says of its flags and of the fields that it reads."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sparcom_jax.docstrings import meanings
from sparcom_jax.identify.selection import OF_NEURONS
from sparcom_jax.settings import StudySettings
from tests.launch.programs import command, launch


@pytest.mark.parametrize("help_flag", ["--help", "--helpfull", "-?"])
def test_help_is_no_fault(help_flag: str, tmp_path: Path) -> None:
    result = launch(tmp_path, "capture", help_flag)
    assert (result.returncode, result.stderr) == (0, "")
    assert "--instructions: hexainst, or a JSONL file" in result.stdout
    assert "  --config.capture.max_tokens=0 " in result.stdout


OF_SELECT = ("size", "expert_size", "share", "half", "seed")
READS = {
    "capture": ("execution", "capture", *(f"identify.{name}" for name in OF_NEURONS)),
    "identify": ("set_name", "identify"),
    "select": ("set_name", "select"),
    "evaluate": ("set_name", "evaluate"),
    "compare": ("set_name", "compare"),
    "sweep": ("identify.selector", "identify.ties", "identify.pool", "sweep"),
    "agree": ("set_name", *(f"select.{name}" for name in OF_SELECT), "agree"),
    "attribute": ("execution", "attribute"),
    "align": ("align",),
    "explore": ("set_name", "execution", "explore"),
    "ablate": ("set_name", "execution", "ablate"),
    "answer": (
        "execution",
        *(f"ablate.{name}" for name in ("how", "alpha", "experts", "measured", "per_category", "seed")),
        "answer",
    ),
    "transfer": (
        "execution",
        *(f"ablate.{field.name}" for field in dataclasses.fields(StudySettings().ablate) if field.name != "rho"),
    ),
    "steer": ("execution", "steer"),
    "finetune": ("execution", "tune"),
    "tunings": tuple(f"tunings.{name}" for name in ("bootstraps", "draws", "seed")),
    "analyze": tuple(field.name for field in dataclasses.fields(StudySettings)),
}
SHORT = {
    "identify": {"name": "set_name"},
    "sweep": {name: f"identify.{name}" for name in ("selector", "ties", "pool")},
    "agree": {"set": "set_name"} | {name: f"select.{name}" for name in OF_SELECT},
    "attribute": {},
    "align": {},
    "answer": {},
    "steer": {},
    "finetune": {},
    "tunings": {},
    **{launcher: {"set": "set_name"} for launcher in ("select", "evaluate", "compare", "ablate", "explore")},
}
# Runs a launcher where what takes long to import is not there.
QUICK = """
import runpy, sys
sys.modules.update(dict.fromkeys(("jax", "flax", "transformers", "scipy", "orbax", "torch", "altair"), None))
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def read_by(launcher: str) -> dict[str, Any]:
    """The fields that a launcher reads, with their defaults."""
    found: dict[str, Any] = {}
    for path in READS[launcher]:
        section, _, field = path.partition(".")
        value = getattr(StudySettings(), section)
        if not dataclasses.is_dataclass(value):
            found[path] = value
        else:
            values = dataclasses.asdict(value)
            found |= {f"{section}.{name}": values[name] for name in ([field] if field else values)}
    return found


@pytest.mark.parametrize("launcher", READS)
def test_help_lists_what_is_read_with_its_default_and_meaning(launcher: str, tmp_path: Path) -> None:
    program = [sys.executable, "-c", QUICK, *command(launcher, "--help")[1:]]
    result = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    lines = re.findall(r"^  --config\.(\S+?)=(\S*) +(\S.*)$", result.stdout, re.MULTILINE)
    wanted = read_by(launcher)
    assert [path for path, _, _ in lines] == list(wanted)
    for path, default, meaning in lines:
        value = wanted[path]
        assert default == (value or "''") if isinstance(value, str) else json.loads(default) == value, path
        *section, name = path.split(".")
        kind = type(getattr(StudySettings(), section[0])) if section else StudySettings
        assert meaning == meanings(kind)[name]


@pytest.mark.parametrize("launcher", SHORT)
def test_help_of_short_flags_is_that_of_their_fields(launcher: str, tmp_path: Path) -> None:
    shown = " ".join(launch(tmp_path, launcher, "--help").stdout.split())
    fields, short = read_by(launcher), SHORT[launcher]
    if launcher != "ablate":
        section = {"finetune": "tune"}.get(launcher, launcher)
        short = short | {path.partition(".")[2]: path for path in fields if path.startswith(f"{section}.")}
    for name, path in short.items():
        value, section = fields[path], path.rpartition(".")[0]
        meaning = meanings(type(getattr(StudySettings(), section)) if section else StudySettings)[path.split(".")[-1]]
        start = f"--[no]{name}: " if isinstance(value, bool) else f"--{name}: "
        default = (value or "''") if isinstance(value, str) else json.dumps(value)
        assert f" {start}{meaning}; default {default} " in shown
