"""Shows what a run, the output of a study, or a directory of results holds.

sparcom status RUN|DIR

Of a run at a path, gs:// or s3://: its model, its instructions, how many of them are done, settings that are not the
defaults, and what was made of it: sets, units, attributions and cards of units. Of a study: its stages, runs and
results. Nothing is written, and no model is needed.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sparcom_jax.capture.settings import CaptureSettings
from sparcom_jax.engine.settings import ExecutionSettings
from sparcom_jax.errors import InputError, first_of
from sparcom_jax.identify.selection import Selection
from sparcom_jax.printable import printable
from sparcom_jax.results.reader import find_summaries, unreadable
from sparcom_jax.results.summary import kind_made_of, made_of
from sparcom_jax.select.settings import WITH_RULE
from sparcom_jax.stages import read_marker
from sparcom_jax.store.explored import explored_names
from sparcom_jax.store.run import Run, open_run
from sparcom_jax.store.schema import SCHEMA_VERSION
from sparcom_jax.store.units import units_path
from sparcom_jax.units.groups import TARGETS

STEPS = ("train", "convert", "capture", "identify", "evaluate", "attribute", "align", "select", "agree", "explore",
         "ablate", "finetune", "tunings", "compare")  # fmt: skip
"""What the stages of a study are called, before the name of a model, in the order in which they are made."""
LONGEST_LIST = 8

Row = tuple[str, ...]


def status(location: str) -> str:
    """What is at a place, on one screen.

    Args:
      location: a run, at a path, `gs://` or `s3://`; or the directory of a study, or of results.

    Raises:
      InputError: it is none of these, or cannot be read.
    """
    path = Path(location).expanduser()
    try:
        if "://" in location or (path / "zarr.json").is_file():
            return "\n".join(_of_run(open_run(location)))
        if (path / "stages").is_dir():
            return "\n".join(_of_study(path))
        if path.is_dir() and (summaries := find_summaries(path)):
            return "\n".join(_of_results(path, summaries))
    except OSError as error:
        raise InputError(f"{error.filename or location}: cannot be read ({error.strerror})") from error
    if not path.exists():
        raise InputError(f"{location}: no such directory")
    raise InputError(f"{location}: not a run, a study or results (no zarr.json, stages/ or summary.json)")


def _of_run(run: Run) -> Iterator[str]:
    manifest = run.manifest
    model, instructions, tokens = manifest.model, manifest.instructions, manifest.tokens
    units = ", ".join(f"{name} {group.unit_count:,}" for name, group in run.groups.items())
    changed = [
        *_changed("capture", manifest.capture, asdict(CaptureSettings())),
        *_changed("execution", manifest.execution, asdict(ExecutionSettings())),
        *_changed("identify", manifest.selection or {}, asdict(Selection())),
    ]
    fields = [
        ("run", run.location),
        ("model", f"{model.source} ({model.family}), {model.parameters:,} parameters in {model.num_layers} layers"),
        ("units", units),
        ("instructions", f"{instructions.source}: {instructions.count:,} ({_by_category(run)})"),
        ("done", _done(run)),
    ]
    if tokens:
        truncated = f"; {len(instructions.truncated):,} texts are cut off" if instructions.truncated else ""
        fields.append(("tokens", f"{tokens.fed:,} fed, {tokens.counted:,} of them counted{truncated}"))
    versions = ", ".join(
        f"{name} {manifest.versions[name]}" for name in ("sparcom_jax", "jax") if name in manifest.versions
    )
    fields += [
        ("settings", " ".join(changed) or "the defaults"),
        ("computed", f"in {manifest.dtype} on {manifest.devices.platform}, by {versions}"),
    ]
    yield from _aligned(fields)
    yield from _listed("sets", ("name", "selector", "cut at", "ties", "groups"), _sets(run))
    yield from _listed("units", ("name", "selector", "size", "each has", "chosen by", "groups"), _units(run))
    yield from _listed("attributions", ("method", "steps", "instructions", "groups", ""), _attributions(run))
    yield from _listed("explored", ("units",), ((name,) for name in explored_names(run)))


def _changed(section: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """The settings that are not the defaults, as flags give them."""
    return [
        f"{section}.{name}={values[name]}" for name, default in defaults.items() if values.get(name, default) != default
    ]


def _by_category(run: Run) -> str:
    if run.store.read("instruction/category/zarr.json") is None:  # the capture has only begun
        return first_of(run.categories, LONGEST_LIST)
    sizes = np.bincount(run.category, minlength=len(run.categories))
    return first_of((f"{name} {size:,}" for name, size in zip(run.categories, sizes, strict=True)), LONGEST_LIST)


def _done(run: Run) -> str:
    done, count = run.count_done(), run.manifest.instructions.count
    left = "" if done == count else "; run the same capture command again to finish it"
    return f"{done:,} of {count:,}{left}"


def _sets(run: Run) -> Iterator[Row]:
    for name, made in _below(run, "sets"):
        cut = next((f"{field} {made[field]}" for field in ("threshold", "epsilon") if _decides(made, field)), "-")
        yield name, _text(made, "selector"), cut, _text(made, "ties"), _groups(made)


def _decides(made: Mapping[str, Any], field: str) -> bool:
    """Whether a set was cut by a field: a threshold by the selector of that name, else a share."""
    return field in made and (made.get("selector") == "threshold") == (field == "threshold")


def _units(run: Run) -> Iterator[Row]:
    for name, made in _below(run, "units"):
        size = [str(made["size"])] if made.get("size") else []
        size += [f"{field} {made[field]}" for field in ("expert_size", "share", "q") if made.get(field)]
        half, usual = made.get("half"), "its rule" if made.get("selector") in WITH_RULE else "default"
        chosen_by = f"{len(half):,} of {run.manifest.instructions.count:,}" if isinstance(half, list) else "all"
        has = ", ".join(_counted(run, name, made)) or "-"
        yield name, _text(made, "selector"), ", ".join(size) or usual, has, chosen_by, _groups(made)


def _counted(run: Run, name: str, made: Mapping[str, Any]) -> Iterator[str]:
    """How many neurons, and experts, the categories have: of one number if all have as many."""
    for target, groups in TARGETS.items():
        if of := [group for group in groups if group in made.get("groups", ())]:
            # Bits beyond the last unit are 0.
            masks = (run.read(f"{units_path(name)}/{group}/mask") for group in of)
            counts = sum(np.bitwise_count(mask).reshape(len(mask), -1).sum(axis=1, dtype=np.int64) for mask in masks)
            least, most = int(np.min(counts)), int(np.max(counts))
            yield f"{target} {least:,}" if least == most else f"{target} {least:,} to {most:,}"


def _attributions(run: Run) -> Iterator[Row]:
    for method, made in _below(run, "attribution"):
        few = made.get("per_category")
        state = "" if made.get("complete") else "unfinished; run the same attribute command again to finish it"
        yield method, _text(made, "steps"), f"{few} of each category" if few else "all", _groups(made), state


def _below(run: Run, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """What was made of a run, name and attributes; these are empty, with a note at the name, where they are no use."""
    found = sorted(name.split("/")[1] for name in run.store.names() if name.count("/") == 2
                   and name.startswith(f"{kind}/") and name.endswith("/zarr.json"))  # fmt: skip
    for name in found:
        made = run.store.read_attributes(f"{kind}/{name}") or {}
        if made.get("schema_version") != SCHEMA_VERSION:
            name, made = (
                f"{name} (schema_version {made.get('schema_version')!r}, this version reads {SCHEMA_VERSION})",
                {},
            )
        elif made.get("run_digest", run.digest) != run.digest:
            name, made = f"{name} (of another run)", {}
        yield name, made


def _text(made: Mapping[str, Any], field: str) -> str:
    return str(made.get(field, "-"))


def _groups(made: Mapping[str, Any]) -> str:
    return ", ".join(map(str, made.get("groups", ()))) or "-"


def _of_study(path: Path) -> Iterator[str]:
    stages: dict[str, dict[bool, list[str]]] = {}
    for marker in sorted((path / "stages").glob("*.json")):
        step, _, of = marker.stem.partition("-")
        finished = (read_marker(marker) or {}).get("output") is not None
        stages.setdefault(step, {True: [], False: []})[finished].append(of)
    begun = sum(len(names) for step in stages.values() for names in step.values())
    left = sum(len(step[False]) for step in stages.values())
    report = path / "report.html"
    yield from _aligned([
        ("study", str(path)),
        ("report", str(report) if report.is_file() else "none yet; run the same analyze command again to finish it"),
    ])  # fmt: skip
    order = [*(step for step in STEPS if step in stages), *sorted(stages.keys() - {*STEPS})]
    rows = [(step, first_of(stages[step][True], LONGEST_LIST) or "-", first_of(stages[step][False], LONGEST_LIST))
            for step in order]  # fmt: skip
    title = f"stages ({begun - left:,} of the {begun:,} that were begun are finished)"
    yield from _listed(title, ("step", "finished", "unfinished"), rows)
    runs = sorted(found.parent for found in (path / "runs").glob("*/zarr.json"))
    header = ("name", "done", "sets", "units", "attributions", "explored")
    yield from _listed("runs", header, map(_run_in_brief, runs))
    kinds: dict[str, list[str]] = {}
    for place, summary in find_summaries(path / "results"):
        kinds.setdefault(summary["kind"], []).append(place.as_posix())
    yield from _listed(
        "results", ("kind", "below results/"), ((k, first_of(names, LONGEST_LIST)) for k, names in kinds.items())
    )


def _run_in_brief(path: Path) -> Row:
    try:
        run = open_run(path)
        done = f"{run.count_done():,} of {run.manifest.instructions.count:,}"
        kinds = ("sets", "units", "attribution")
        made = [first_of((name for name, _ in _below(run, kind)), LONGEST_LIST) or "-" for kind in kinds]
        made.append(first_of(explored_names(run), LONGEST_LIST) or "-")
    except InputError as error:
        return path.name, str(error)
    return path.name, done, *made


def _of_results(path: Path, summaries: Sequence[tuple[Path, dict[str, Any]]]) -> Iterator[str]:
    yield from _aligned([("results", str(path))])
    rows = [(summary["kind"], place.as_posix(), _origin(summary)) for place, summary in summaries]
    yield from _listed("results", ("kind", "directory", "made of"), rows)


def _origin(summary: dict[str, Any]) -> str:
    """What results were made of: set, units or attribution, and the run that has it."""
    if wrong := unreadable(summary):
        return wrong
    sides = [summary[role] for role in ("base", "tuned")] if summary["kind"] == "compare" else [summary]
    return " and ".join(f"{kind_made_of(side)} {made_of(side)['name']} of {side['run']}" for side in sides)


def _listed(title: str, header: Row, rows: Iterable[Row]) -> list[str]:
    """A table below its title, or one line where it is empty."""
    listed = list(rows)
    if not listed:
        return ["", f"{title}: none"]
    return ["", f"{title}:", *(f"  {line}" for line in _aligned([header, *listed]))]


def _aligned(rows: Sequence[Row]) -> list[str]:
    """Rows of text in columns; the last cell of a row is of any width."""
    rows = [tuple(map(printable, row)) for row in rows]
    width = [max((len(row[at]) for row in rows if at < len(row) - 1), default=0) for at in range(max(map(len, rows)))]
    return ["  ".join(f"{cell:<{width[at]}}" if at < len(row) - 1 else cell for at, cell in enumerate(row)).rstrip()
            for row in rows]  # fmt: skip
