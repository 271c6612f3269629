"""A whole study: every model of a config from checkpoint to report, stage by stage, each made once."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.capture.engine import CaptureSettings, capture
from sparcom_jax.causal.ablate import AblationSettings, ablate
from sparcom_jax.convert.model_dir import convert, open_model
from sparcom_jax.data.instructions import InstructionSet, load_instructions
from sparcom_jax.demo.training import TrainingSettings, train_pair
from sparcom_jax.errors import InputError
from sparcom_jax.identify.select import identify
from sparcom_jax.identify.selection import Selection
from sparcom_jax.progress import say
from sparcom_jax.report.page import report
from sparcom_jax.settings import build, checked, shared_with_capture
from sparcom_jax.store.run import open_run

ROLES = ("base", "tuned")


def analyze(config: ConfigDict, output: Path) -> Path:
    """Runs a study: train (if asked), convert, capture, identify, evaluate, compare, ablate, report.

    A stage that is finished is skipped when the same command is run again; capture goes on within its stage.

    Args:
      config: as `settings.default_config` describes it.
      output: directory of everything that is made: `hf/`, `models/`, `runs/`, `results/` and `report.html`.

    Returns:
      Path of the report.

    Raises:
      InputError: the input is at fault, or a finished stage was made with another config.
    """
    settings = checked(config)
    if not settings["pairs"]:
        raise InputError("config field pairs is empty: a study needs at least one pair of models")
    instructions = load_instructions(settings["instructions"])
    stages = _Stages(output, {"instructions": instructions.digest})
    roles = {name: _roles(name, pair) for name, pair in settings["pairs"].items()}
    for name, pair in settings["pairs"].items():
        _study_pair(stages, output, settings, name, pair, roles[name], instructions)
    for first, second in itertools.pairwise(roles):
        for role in (role for role in roles[first] if role in roles[second]):
            _compare(stages, output, settings, f"{first}-{role}", f"{second}-{role}")
    page = output / "report.html"
    say(f"report: {page}")
    return report(output / "results", page)


def _roles(name: str, pair: dict[str, Any]) -> list[str]:
    """Which models a pair has: both, or one where no other was published."""
    if not isinstance(pair, dict):
        raise InputError(f"config field pairs.{name} must hold base, tuned or both, or else train, not {pair!r}")
    known = {"train"} if "train" in pair else set(ROLES)
    for role, value in pair.items():
        if role in known and not isinstance(value, dict if role == "train" else str):
            raise InputError(f"config field pairs.{name}.{role} is of the wrong type: {value!r}")
    if not pair or not pair.keys() <= known:
        raise InputError(f"config field pairs.{name} has {', '.join(sorted(pair)) or 'nothing'}; "
                         f"it needs base, tuned or both, or else train")  # fmt: skip
    return [role for role in ROLES if role in pair or "train" in pair]


def _study_pair(
    stages: "_Stages",
    output: Path,
    settings: dict[str, Any],
    name: str,
    pair: dict[str, Any],
    roles: list[str],
    instructions: InstructionSet,
) -> None:
    if "train" in pair:
        directories = [output / "hf" / f"{name}-{role}" for role in ROLES]
        training = build(TrainingSettings, pair["train"], f"pairs.{name}.train")

        def train() -> None:
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)
            train_pair(training, instructions, *directories)

        stages.run(f"train-{name}", pair["train"], train)
        sources = [str(directory) for directory in directories]
    else:
        sources = [pair[role] for role in roles]
    for role, source in zip(roles, sources, strict=True):
        _study_model(stages, output, settings, f"{name}-{role}", source, instructions)
    if roles == list(ROLES):
        _compare(stages, output, settings, f"{name}-base", f"{name}-tuned")


def _study_model(
    stages: "_Stages", output: Path, settings: dict[str, Any], name: str, source: str, instructions: InstructionSet
) -> None:
    model_path, run_path, results = output / "models" / name, output / "runs" / name, output / "results"
    set_name, of_capture, of_sets = settings["set_name"], settings["capture"], _of_sets(settings)

    def convert_anew() -> None:
        shutil.rmtree(model_path, ignore_errors=True)
        convert(source, model_path)

    stages.run(f"convert-{name}", {"source": source}, convert_anew)
    capturing = build(CaptureSettings, of_capture, "capture")
    selection = build(Selection, settings["identify"], "identify")
    stages.run(
        f"capture-{name}",
        of_capture | (selection.of_neurons() if capturing.keep == "sets" else {}),
        lambda: capture(open_model(model_path), instructions, run_path, capturing, selection),
    )
    stages.run(
        f"identify-{name}",
        settings["identify"],
        lambda: identify(open_run(run_path), name=set_name, **settings["identify"]),
    )
    stages.run(
        f"evaluate-{name}",
        settings["evaluate"] | of_sets,
        lambda: evaluate(open_run(run_path), results / f"evaluate-{name}", set_name=set_name, **settings["evaluate"]),
    )
    fields = settings["ablate"] | shared_with_capture(of_capture) | {"set_name": set_name}
    ablating = build(AblationSettings, fields, "ablate")
    stages.run(
        f"ablate-{name}",
        settings["ablate"] | of_sets,
        lambda: ablate(open_model(model_path), open_run(run_path), results / f"ablate-{name}", ablating),
    )


def _of_sets(settings: dict[str, Any]) -> dict[str, Any]:
    """What the sets depend on, and with them every stage that reads them."""
    return {"set_name": settings["set_name"], "identify": settings["identify"]}


def _compare(stages: "_Stages", output: Path, settings: dict[str, Any], first: str, second: str) -> None:
    runs, name = output / "runs", f"compare-{first}-{second}"
    stages.run(
        name,
        settings["compare"] | _of_sets(settings),
        lambda: compare(
            open_run(runs / first),
            open_run(runs / second),
            output / "results" / name,
            set_name=settings["set_name"],
            **settings["compare"],
        ),
    )


class _Stages:
    """Remembers which stages are finished, and with which settings."""

    def __init__(self, output: Path, common: dict[str, Any]) -> None:
        self._directory = output / "stages"
        self._common = common
        self._directory.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, settings: dict[str, Any], work: Callable[[], object]) -> None:
        """Runs a stage unless it is finished.

        Raises:
          InputError: it is finished, but with other settings.
        """
        marker = self._directory / f"{name}.json"
        wanted = json.dumps({**self._common, **settings}, sort_keys=True, indent=1)
        if marker.exists():
            if marker.read_text() != wanted:
                raise InputError(
                    f"{marker}: stage {name} was made with other settings; choose another --output or "
                    f"delete this file to make the stage again"
                )
            say(f"{name}: finished before")
            return
        say(f"{name} ...")
        work()
        partial = marker.with_suffix(".partial")
        partial.write_text(wanted)
        partial.replace(marker)
