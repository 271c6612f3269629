"""The commands that make a result again, as they are typed."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from sparcom_jax.results.reader import Result
from sparcom_jax.results.summary import kind_made_of, made_of
from sparcom_jax.settings import StudySettings

DEFAULTS = {name: asdict(section) for name, section in StudySettings().sections.items()}


def of_run(side: Mapping[str, Any]) -> Iterator[str]:
    """From a checkpoint to the run, and to the set, units or attribution of it that a result was made of.

    Args:
      side: a part of a summary that describes a model, its run and what of it was analysed.
    """
    model, manifest = side["model"], side.get("manifest") or {}
    if model.get("source") and model.get("path"):
        yield _command("convert", source=model["source"], output=model["path"])
    if "path" in model and "source" in manifest.get("instructions", {}):
        yield _command("capture", model=model["path"], instructions=manifest["instructions"]["source"],
                       output=side["run"], **overrides("capture", manifest.get("capture", {})),
                       **overrides("identify", manifest.get("selection") or {}),
                       **overrides("execution", manifest.get("execution", {})))  # fmt: skip
    made, kind = made_of(side), kind_made_of(side)
    if kind == "units":
        of_set = {"set": made["set"]["name"]} if "set" in made else {}
        yield _command("select", run=made["run"], name=made["name"], **of_set, **chosen_by(side))
    elif kind == "attribution":
        yield _command("attribute", model=model.get("path", "MODEL_DIR"), run=made["run"], **chosen_by(side))
    elif kind == "set" and not manifest.get("selection"):
        yield _command("identify", run=made["run"], name=made["name"], **chosen_by(side))


def chosen_by(side: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that set what is not a default of the choice of a set or units, or of an attribution.

    Args:
      side: as for `of_run`.
    """
    made, kind = made_of(side), kind_made_of(side)
    if kind == "train":
        return {}
    if kind == "units":
        return overrides("select", {**made, "half": made.get("chosen_on")})
    if kind == "attribution":
        return overrides("attribute", {**made, "steps": made["steps"] if made["method"] == "integrated" else None})
    return overrides("identify", made)


def of_result(result: Result) -> str:
    """From runs to the result, below a directory `results`."""
    summary, kind = result.summary, result.kind
    given = {
        "output": "results" if result.name == "." else f"results/{result.name}",
        **of_settings(kind, summary["settings"]),
    }
    if kind == "compare":
        base, tuned = summary["base"], summary["tuned"]
        return _command("compare", base=base["run"], tuned=tuned["run"], set=base["set"]["name"], **given)
    made, of = made_of(summary), kind_made_of(summary)
    if kind == "tunings":
        runs = {"tuned": ",".join(summary["tuned"])} if summary["tuned"] else {}
        return _command(kind, run=summary["run"], trained=summary["trained"], **runs, **given)
    if kind == "finetune":
        of_run = {"run": made["run"]} if made["run"] else {}
        given |= overrides("execution", summary["execution"])
        return _command(kind, model=summary["model"]["path"], instructions=summary["instructions"]["source"],
                        train=made["name"], **of_run, **given)  # fmt: skip
    named = {of: made["name"]} if of in ("set", "units") else {}
    if kind == "sweep":
        given |= chosen_by(summary)
    if summary.get("cores_of"):
        named["set"] = summary["cores_of"]
    if kind in ("evaluate", "sweep", "agree", "align"):
        return _command(kind, run=summary["run"], **named, **given)
    model = summary["model"].get("path", "MODEL_DIR")
    if "other" in summary:
        named["other"] = summary["other"]["run"]
    if "units_from" in summary:
        return _command("transfer", model=model, run=summary["run"], **{"units-run": made["run"]}, **named, **given)
    return _command(kind, model=model, run=summary["run"], **named, **given)


def of_settings(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that set what is not a default of the settings of a kind of results.

    Args:
      kind: of the results, and so of the section of the config; `answer` also reads that of `ablate`, and `agree` that
        of `select`.
      settings: as the summary holds them.
    """
    if kind == "agree":
        sizes = {name: value for name, value in settings.items() if name != "selector"}
        return overrides("agree", {"selectors": settings["selector"]}) | overrides("select", sizes)
    if kind == "finetune":
        return overrides("tune", settings)
    if kind != "answer":
        return overrides(kind, settings)
    others = {name: value for name, value in settings.items() if name not in DEFAULTS[kind]}
    return overrides(kind, settings) | overrides("ablate", others)


def overrides(section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The flags that set what is not a default of a section of the config.

    Args:
      section: its name.
      values: what was recorded; fields that the section does not have, or that depend on others, are left out.
    """
    defaults = DEFAULTS[section]
    return {f"config.{section}.{name}": value for name, value in values.items()
            if name in defaults and value is not None and type(value) is type(defaults[name])
            and value != defaults[name]}  # fmt: skip


def _command(command: str, **flags: Any) -> str:
    return " ".join((f"sparcom {command}", *(f"--{flag}={shlex.quote(str(value))}" for flag, value in flags.items())))
