"""A whole study: every model of a config from checkpoint to report, stage by stage, each made once."""

import hashlib
import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sparcom_jax.analysis.agree import agree
from sparcom_jax.analysis.align import align
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.units import write_cards
from sparcom_jax.attribution.attribute import attribute
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.convert.model_dir import MANIFEST, convert, open_model
from sparcom_jax.demo.training import TrainingSettings, train_pair
from sparcom_jax.errors import InputError
from sparcom_jax.explore.explore import explore
from sparcom_jax.identify.select import identify
from sparcom_jax.instructions.rows import InstructionSet, load_instructions
from sparcom_jax.progress import say
from sparcom_jax.report.page import report
from sparcom_jax.select.select import select
from sparcom_jax.settings import StudySettings, build
from sparcom_jax.stages import Stages, digest_of_files, digest_of_listing
from sparcom_jax.store.attribution import attribution_path, open_attribution
from sparcom_jax.store.run import open_run
from sparcom_jax.store.sets import open_sets
from sparcom_jax.store.units import open_units
from sparcom_jax.trainings import Trainings

ROLES = ("base", "tuned")

Inputs = dict[str, str | None]
"""Digests of what a stage reads, by what it is."""
Checkpoint = dict[str, str]
"""Arguments of `convert`: `source`, and `adapter` and `dtype` where they are given."""


def analyze(study: StudySettings, output: Path) -> Path:
    """Runs a study, from checkpoints to the report.

    Its stages: train, convert, capture, identify, evaluate, attribute, align, select, agree, explore, ablate, finetune,
    tunings, compare. Without counts (`capture.keep`) nothing can be aligned or explored, and attribute is left out
    where no selector reads it.

    When the same command is run again, a finished stage is skipped, unless the digests of what it reads are others by
    now, or what it made is gone. Capture goes on within its stage; if its model or the instructions are others by now,
    the run is deleted and begun anew.

    Args:
      study: its settings.
      output: directory of everything that is made: `hf/`, `models/`, `runs/`, `results/` and `report.html`.

    Returns:
      Path of the report.

    Raises:
      InputError: the input is at fault, or a finished stage was made with another config.
    """
    study.check()
    if not study.pairs:
        raise InputError("config field pairs is empty: a study needs at least one pair of models")
    instructions = load_instructions(study.instructions)
    stages = Stages(output / "stages")
    roles = {name: _roles(name, pair) for name, pair in study.pairs.items()}
    made: dict[str, Inputs] = {}
    for name, pair in study.pairs.items():
        made |= _study_pair(stages, output, study, name, pair, roles[name], instructions)
    for first, second in itertools.pairwise(roles):
        for role in (role for role in roles[first] if role in roles[second]):
            _compare(stages, output, study, made, f"{first}-{role}", f"{second}-{role}")
    page = output / "report.html"
    say(f"report: {page}")
    return report(output / "results", page, note=study.note)


def _roles(name: str, pair: dict[str, Any]) -> list[str]:
    """Which models a pair has: both, or one where no other was published."""
    if not isinstance(pair, dict):
        raise InputError(f"config field pairs.{name} must hold base, tuned or both, or else train, not {pair!r}")
    known = {"train"} if "train" in pair else set(ROLES)
    for role, value in pair.items():
        if role in known and not isinstance(value, dict if role == "train" else dict | str):
            raise InputError(f"config field pairs.{name}.{role} is of the wrong type: {value!r}")
    if not pair or not pair.keys() <= known:
        raise InputError(f"config field pairs.{name} has {', '.join(sorted(pair)) or 'nothing'}; "
                         f"it needs base, tuned or both, or else train")  # fmt: skip
    return [role for role in ROLES if role in pair or "train" in pair]


def _study_pair(
    stages: Stages,
    output: Path,
    study: StudySettings,
    name: str,
    pair: dict[str, Any],
    roles: list[str],
    instructions: InstructionSet,
) -> dict[str, Inputs]:
    """Returns, of every model of the pair, the digests of its run and its set."""
    sources: list[tuple[Checkpoint, str | None]]
    if "train" in pair:
        directories = [output / "hf" / f"{name}-{role}" for role in ROLES]
        training = build(TrainingSettings, pair["train"], f"pairs.{name}.train")

        def train() -> None:
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)
            train_pair(training, instructions, *directories)

        stages.run(f"train-{name}", asdict(training), {"instructions": instructions.digest}, train,
                   lambda: digest_of_files(*directories))  # fmt: skip
        sources = [({"source": str(directory)}, digest_of_files(directory)) for directory in directories]
    else:
        checkpoints = [_checkpoint(f"pairs.{name}.{role}", pair[role]) for role in roles]
        sources = [(one, _listing(one["source"], one.get("adapter"))) for one in checkpoints]
    made: dict[str, Inputs] = {}
    for role, source in zip(roles, sources, strict=True):
        before = made.get(f"{name}-base")
        base = None if before is None else (output / "runs" / f"{name}-base", before["run"])
        made[f"{name}-{role}"] = _study_model(stages, output, study, f"{name}-{role}", source, instructions, base)
    if roles == list(ROLES):
        _compare(stages, output, study, made, f"{name}-base", f"{name}-tuned")
    if study.trainings:
        last = f"{name}-{roles[-1]}"
        tuned = Trainings(stages, output, study, last, instructions, made[last]).run_all()
        for one in tuned:
            _compare(stages, output, study, made | tuned, last, one)
    return made


def _checkpoint(field: str, value: Any) -> Checkpoint:
    """What `convert` is given: a source alone, or an object with `adapter` or `dtype` beside it."""
    made = {"source": value} if isinstance(value, str) else value
    if not isinstance(made, dict) or "source" not in made or not made.keys() <= {"source", "adapter", "dtype"}:
        raise InputError(f"config field {field} must be a checkpoint, or an object with source and, if need be, "
                         f"adapter and dtype")  # fmt: skip
    return {name: str(one) for name, one in made.items() if one is not None}


def _listing(*locations: str | None) -> str | None:
    """Digest of the listings of what a model is made of; None where it is the hub's."""
    parts = [digest_of_listing(Path(one).expanduser()) for one in locations if one is not None]
    return None if None in parts else hashlib.sha256("".join(str(part) for part in parts).encode()).hexdigest()


def _study_model(
    stages: Stages,
    output: Path,
    study: StudySettings,
    name: str,
    source: tuple[Checkpoint, str | None],
    instructions: InstructionSet,
    base: tuple[Path, str | None] | None,
) -> Inputs:
    """Returns the digests of the run and the set of a model; `base` is the run of its base model, and its digest."""
    (checkpoint, listing), (base_path, base_digest) = source, base or (None, None)
    model_path, run_path, results = output / "models" / name, output / "runs" / name, output / "results"
    of_set, execution = {"set_name": study.name_of_sets}, asdict(study.execution)

    def convert_anew() -> None:
        shutil.rmtree(model_path, ignore_errors=True)
        convert(output=model_path, **checkpoint)

    model = stages.run(
        f"convert-{name}",
        checkpoint | {"source": checkpoint["source"].removeprefix(f"{output}/")},  # so that a study may be moved
        {"checkpoint": listing},
        convert_anew,
        lambda: _model_digest(model_path),
    )
    run = stages.run(
        f"capture-{name}",
        asdict(study.capture) | execution | (study.identify.of_neurons() if study.capture.keep == "sets" else {}),
        {"model": model, "instructions": instructions.digest},
        lambda: capture(open_model(model_path), instructions, run_path, study.capture, study.identify, study.execution),
        lambda: _run_digest(run_path),
        stale=run_path,
    )
    sets = stages.run(
        f"identify-{name}",
        asdict(study.identify) | of_set,
        {"run": run},
        lambda: identify(open_run(run_path), name=study.name_of_sets, **asdict(study.identify)),
        lambda: open_sets(open_run(run_path), study.name_of_sets).digest,
    )
    made: Inputs = {"run": run, "set": sets}
    stages.run(
        f"evaluate-{name}",
        asdict(study.evaluate) | of_set,
        made,
        lambda: evaluate(open_run(run_path), results / f"evaluate-{name}", study.evaluate, **of_set),
        lambda: digest_of_files(results / f"evaluate-{name}"),
    )

    selectors = study.select.selectors
    of_units, attribution = made, None
    if study.capture.keep == "counts" or "attribution" in selectors:
        attribution = _attribute(stages, output, study, name, {"model": model, "run": run})
        of_units = {**made, "attribution": attribution} if "attribution" in selectors else made

    def units_digest() -> str:
        digests = [open_units(open_run(run_path), selector).digest for selector in selectors]
        return hashlib.sha256("".join(digests).encode()).hexdigest()

    units = stages.run(
        f"select-{name}",
        asdict(study.select) | of_set,
        of_units,
        lambda: select(open_run(run_path), study.select, set_name=study.name_of_sets),
        units_digest,
    )

    stages.run(
        f"agree-{name}",
        asdict(study.select) | asdict(study.agree) | of_set,
        made,
        lambda: agree(open_run(run_path), results / f"agree-{name}", study.select, study.agree, **of_set),
        lambda: digest_of_files(results / f"agree-{name}"),
    )

    def explore_units(selector: str) -> None:
        into = results / f"explore-{name}-{selector}"
        stages.run(
            f"explore-{name}-{selector}",
            asdict(study.explore) | execution | of_set,
            {"model": model, "run": run, "set": sets, "units": units, "attribution": attribution, "base": base_digest},
            lambda: _explore(model_path, run_path, selector, into, study, base_path),
            lambda: digest_of_files(into),
        )

    def ablate_units(selector: str) -> None:
        into = results / f"ablate-{name}-{selector}"
        stages.run(
            f"ablate-{name}-{selector}",
            asdict(study.ablate) | execution,
            {"model": model, "run": run, "units": units},
            lambda: _ablate(model_path, run_path, selector, into, study),
            lambda: digest_of_files(into),
        )

    for selector in selectors:
        if study.capture.keep == "counts":
            explore_units(selector)
        ablate_units(selector)
    return {**made, "model": model, "units": units}


def _attribute(stages: Stages, output: Path, study: StudySettings, name: str, inputs: Inputs) -> str:
    """Attributes, and compares frequency with it. Returns the digest of the attribution."""
    model_path, run_path, into = output / "models" / name, output / "runs" / name, output / "results" / f"align-{name}"
    attribution = stages.run(
        f"attribute-{name}",
        asdict(study.attribute) | asdict(study.execution),
        inputs,
        lambda: attribute(open_model(model_path), open_run(run_path), study.attribute, study.execution),
        lambda: open_attribution(open_run(run_path), study.attribute.method).digest,
        stale=run_path / attribution_path(study.attribute.method),
    )
    if study.capture.keep == "counts":
        stages.run(
            f"align-{name}",
            asdict(study.align),
            {"run": inputs["run"], "attribution": attribution},
            lambda: align(open_run(run_path), into, study.align),
            lambda: digest_of_files(into),
        )
    return attribution


def _explore(model: Path, run: Path, units: str, output: Path, study: StudySettings, base: Path | None) -> None:
    """Explores units, beside the base model where it has the same."""
    captured, other = open_run(run), None if base is None else open_run(base)
    alike = other if other is not None and other.groups == captured.groups else None
    of_set = {"set_name": study.name_of_sets}
    chosen = open_units(captured, units)
    explore(open_model(model), captured, chosen, study.explore, study.execution, other=alike, **of_set)
    write_cards(captured, units, output)


def _ablate(model: Path, run: Path, units: str, output: Path, study: StudySettings) -> None:
    captured = open_run(run)
    ablate(open_model(model), captured, open_units(captured, units), output, study.ablate, study.execution)


def _compare(
    stages: Stages, output: Path, study: StudySettings, made: dict[str, Inputs], first: str, second: str
) -> None:
    runs, name = output / "runs", f"compare-{first}-{second}"
    stages.run(
        name,
        asdict(study.compare) | {"set_name": study.name_of_sets},
        {f"{what} of {model}": made[model][what] for model in (first, second) for what in ("run", "set")},
        lambda: compare(
            open_run(runs / first),
            open_run(runs / second),
            output / "results" / name,
            study.compare,
            set_name=study.name_of_sets,
        ),
        lambda: digest_of_files(output / "results" / name),
    )


def _model_digest(path: Path) -> str:
    """Of the weights, and of the files beside them that a capture may read: config and tokenizer."""
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name != MANIFEST)
    parts = [open_model(path).digest, *((file.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in files)]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _run_digest(path: Path) -> str:
    """Of all that the counts depend on: from the same they come out the same, bit by bit."""
    run = open_run(path)
    run.require_complete()
    return run.manifest.identity_digest
