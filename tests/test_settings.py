"""The config: every field from the command line of every launcher that reads it, and what is refused by name."""

import dataclasses
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from sparcom_jax.analysis.align import align
from sparcom_jax.analysis.compare import compare
from sparcom_jax.analysis.evaluate import evaluate
from sparcom_jax.analysis.settings import AgreeSettings
from sparcom_jax.attribution.attribute import attribute
from sparcom_jax.capture.capture import capture
from sparcom_jax.causal.ablate import ablate
from sparcom_jax.errors import InputError
from sparcom_jax.explore.explore import explore
from sparcom_jax.identify.select import identify
from sparcom_jax.identify.selection import OF_NEURONS, Selection
from sparcom_jax.select.scores import MEASURES
from sparcom_jax.select.select import select
from sparcom_jax.select.settings import OF_COUNTS, SELECTORS, SelectSettings
from sparcom_jax.settings import StudySettings, checked, default_config
from sparcom_jax.tune.finetune import finetune

ROOT = Path(__file__).resolve().parents[1]
OTHER = {
    "instructions": "rows.jsonl", "note": "one more word", "set_name": "other", "scope": "response",
    "template": "chat", "convention": "product",
    "keep": "sets", "placement": "mesh:2", "dtype": "bfloat16", "selector": "threshold", "ties": "drop",
    "half": "second", "measured": "all", "how": "scale", "cuts": "0.1", "selectors": "auroc,lape",
    "method": "integrated", "doses": "2,4", "experts": "zero", "category": "B", "schedule": "linear",
    "alphas": "0,2",
}  # fmt: skip
# Runs a launcher of which the step itself is replaced by one that prints its arguments.
DRIVER = """
import dataclasses, json, runpy, sys
import sparcom_jax.analysis.agree, sparcom_jax.analysis.align, sparcom_jax.analysis.compare
import sparcom_jax.analysis.evaluate, sparcom_jax.analysis.sweep, sparcom_jax.attribution.attribute
import sparcom_jax.capture.capture
import sparcom_jax.causal.ablate, sparcom_jax.causal.answers, sparcom_jax.causal.targets
import sparcom_jax.causal.transfer, sparcom_jax.convert.model_dir, sparcom_jax.explore.explore
import sparcom_jax.identify.select, sparcom_jax.instructions.rows, sparcom_jax.select.select, sparcom_jax.store.run
import sparcom_jax.store.sets, sparcom_jax.store.units, sparcom_jax.study
import sparcom_jax.causal.steer, sparcom_jax.tune.finetune, sparcom_jax.tune.tunings
from types import SimpleNamespace

def show(*arguments, **more):
    settings = [dataclasses.asdict(one) if dataclasses.is_dataclass(one) else one for one in arguments]
    settings = [one for one in settings if isinstance(one, dict)]
    print(json.dumps([*settings, *([more] if more else [])]))
    sys.exit()  # what a launcher says of what was made has nothing to say here

for module, step in (("analysis.compare", "compare"), ("analysis.evaluate", "evaluate"),
                     ("analysis.sweep", "sweep"),
                     ("analysis.agree", "agree"), ("capture.capture", "capture"),
                     ("causal.ablate", "ablate"), ("causal.transfer", "transfer"), ("causal.answers", "answer"),
                     ("identify.select", "identify"), ("select.select", "select"),
                     ("attribution.attribute", "attribute"), ("analysis.align", "align"),
                     ("explore.explore", "explore"), ("causal.steer", "steer"), ("tune.finetune", "finetune"),
                     ("tune.tunings", "tunings"), ("study", "analyze")):
    setattr(sys.modules[f"sparcom_jax.{module}"], step, show)
sys.modules["sparcom_jax.convert.model_dir"].open_model = lambda path: None
sparcom_jax.store.run.open_run = lambda path: SimpleNamespace(require_complete=lambda: None, count_done=lambda: 0)
sparcom_jax.store.sets.open_sets = lambda run, name: name
sparcom_jax.causal.targets.cores = lambda sets, settings: {"set": sets, "rho": settings.rho}
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
    return f"--{name}={json.dumps(value) if not isinstance(value, str) else value}"


def overrides(section: str, fields: dict[str, Any]) -> list[str]:
    return [flag(f"config.{section}.{name}", value) for name, value in fields.items()]


def launched(launcher: str, *flags: str) -> list[dict[str, Any]]:
    path = str(ROOT / "launch" / f"{launcher}.py")
    result = subprocess.run([sys.executable, "-c", DRIVER, path, *flags], capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    made: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[0])
    return made


DEFAULT = {name: dataclasses.asdict(section) for name, section in StudySettings().sections.items()}
SECTIONS = {
    section: {name: other(name, value) for name, value in fields.items()} for section, fields in DEFAULT.items()
}
OF_A_STEP = {
    "evaluate": ("--run=r", "--output=o"),
    "align": ("--run=r", "--output=o"),
    "attribute": ("--model=m", "--run=r"),
    "compare": ("--base=r", "--tuned=r", "--output=o"),
    "ablate": ("--model=m", "--run=r", "--output=o"),
}


def test_every_field_of_a_capture_arrives() -> None:
    of_neurons = {name: SECTIONS["identify"][name] for name in OF_NEURONS}
    flags = [*overrides("capture", SECTIONS["capture"]), *overrides("execution", SECTIONS["execution"])]
    flags += overrides("identify", of_neurons)
    settings, selection, execution = launched("capture", "--model=m", "--instructions=i", "--output=o", *flags)
    assert (settings, execution) == (SECTIONS["capture"], SECTIONS["execution"])
    assert selection == DEFAULT["identify"] | of_neurons


def test_every_field_of_an_ablation_arrives() -> None:
    flags = [*overrides("ablate", SECTIONS["ablate"]), *overrides("execution", SECTIONS["execution"])]
    units, settings, execution = launched("ablate", *OF_A_STEP["ablate"], *flags, "--config.set_name=s")
    assert units == {"set": "s", "rho": SECTIONS["ablate"]["rho"]}
    assert (settings, execution) == (SECTIONS["ablate"], SECTIONS["execution"])
    units, *_ = launched("ablate", *OF_A_STEP["ablate"], "--units=u", "--config.ablate.draws=3")
    assert units == {"units": "u"}


def test_every_field_of_an_attribution_and_of_an_alignment_arrives() -> None:
    for step in ("attribute", "align"):
        rest = [DEFAULT["execution"]] if step == "attribute" else []
        by_config = overrides(step, SECTIONS[step])
        assert launched(step, *OF_A_STEP[step], *by_config) == [SECTIONS[step], *rest]
        short = [flag(name, value) for name, value in DEFAULT[step].items()]
        assert launched(step, *OF_A_STEP[step], *by_config, *short) == [DEFAULT[step], *rest]


def test_every_field_of_an_exploration_arrives() -> None:
    by_config = [*overrides("explore", SECTIONS["explore"]), *overrides("execution", SECTIONS["execution"])]
    command = ("explore", "--model=m", "--run=r", "--units=u")
    found = launched(*command, *by_config, "--set=s")
    assert found == [{"units": "u"}, SECTIONS["explore"], SECTIONS["execution"], {"set_name": "s", "other": None}]
    short = [flag(name, value) for name, value in SECTIONS["explore"].items()]
    _, settings, _, named = launched(*command, *short, "--other=o")
    assert (settings, named["other"]) == (SECTIONS["explore"], "o")


def test_every_field_of_a_steering_arrives() -> None:
    command = ("steer", "--model=m", "--run=r", "--units=u", "--output=o")
    flags = [*overrides("steer", SECTIONS["steer"]), *overrides("execution", SECTIONS["execution"])]
    assert launched(*command, *flags) == [{"units": "u"}, SECTIONS["steer"], SECTIONS["execution"]]
    short = [flag(name, value) for name, value in SECTIONS["steer"].items()]
    assert launched(*command, *short) == [{"units": "u"}, SECTIONS["steer"], DEFAULT["execution"]]


def test_every_field_of_a_training_arrives() -> None:
    command = ("finetune", "--model=m", "--instructions=i", "--train=lora:2", "--output=o")
    flags = [*overrides("tune", SECTIONS["tune"]), *overrides("execution", SECTIONS["execution"])]
    assert launched(*command, *flags) == [SECTIONS["tune"], SECTIONS["execution"], {"run": None}]
    short = [flag(name, value) for name, value in SECTIONS["tune"].items()]
    assert launched(*command, *short, "--run=r") == [SECTIONS["tune"], DEFAULT["execution"], {"run": "r"}]


def test_every_field_of_a_comparison_of_trainings_arrives() -> None:
    fields = SECTIONS["tunings"] | {"seeds": DEFAULT["tunings"]["seeds"]}
    read = {name: value for name, value in fields.items() if name != "seeds"}
    command = ("tunings", "--run=r", "--trained=t", "--output=o")
    assert launched(*command, *overrides("tunings", read)) == [fields, {"tuned_runs": []}]
    short = [flag(name, value) for name, value in read.items()]
    assert launched(*command, *short, "--tuned=a,b") == [fields, {"tuned_runs": ["a", "b"]}]


def test_every_field_of_answers_arrives() -> None:
    read = {name: SECTIONS["ablate"][name] for name in ("how", "alpha", "experts", "measured", "per_category", "seed")}
    flags = [*overrides("answer", SECTIONS["answer"]), *overrides("ablate", read)]
    flags += overrides("execution", SECTIONS["execution"])
    units, *settings = launched("answer", *OF_A_STEP["ablate"], "--units=u", *flags)
    assert units == {"units": "u"}
    assert settings == [SECTIONS["answer"], DEFAULT["ablate"] | read, SECTIONS["execution"]]
    short = [flag(name, value) for name, value in SECTIONS["answer"].items()]
    assert launched("answer", *OF_A_STEP["ablate"], "--units=u", *short)[1] == SECTIONS["answer"]


def test_every_field_of_a_transfer_arrives() -> None:
    fields = SECTIONS["ablate"] | {"rho": DEFAULT["ablate"]["rho"]}
    flags = [one for one in overrides("ablate", fields) if ".rho=" not in one]
    flags += overrides("execution", SECTIONS["execution"])
    settings, execution = launched("transfer", *OF_A_STEP["ablate"], "--units-run=q", "--units=u", *flags)
    assert (settings, execution) == (fields, SECTIONS["execution"])


@pytest.mark.parametrize("step", ["evaluate", "compare"])
def test_every_field_of_an_analysis_arrives_by_the_config_and_by_short_flags(step: str) -> None:
    by_config = overrides(step, SECTIONS[step])
    assert launched(step, *OF_A_STEP[step], *by_config) == [SECTIONS[step], {"set_name": "excess"}]
    short = [flag(name, value) for name, value in DEFAULT[step].items()]
    made = launched(step, *OF_A_STEP[step], *by_config, "--config.set_name=of_config", *short, "--set=s")
    assert made == [DEFAULT[step], {"set_name": "s"}]  # a short flag wins, also with the default


def test_every_field_of_a_sweep_arrives_by_the_config_and_by_short_flags() -> None:
    cut = {"selector": "threshold", "ties": "drop", "pool": True}
    given = ("--run=r", "--output=o")
    made = [DEFAULT["identify"] | cut, SECTIONS["sweep"]]
    assert launched("sweep", *given, *overrides("identify", cut), *overrides("sweep", SECTIONS["sweep"])) == made
    short = [flag(name, value) for name, value in (cut | SECTIONS["sweep"]).items()]
    assert launched("sweep", *given, *short) == made


def test_every_field_of_an_agreement_arrives_by_the_config_and_by_short_flags() -> None:
    chosen = {name: SECTIONS["select"][name] for name in ("size", "expert_size", "half", "seed")}
    given, named = ("--run=r", "--output=o"), {"set_name": "s"}
    made = [DEFAULT["select"] | chosen, SECTIONS["agree"], named]
    by_config = [*overrides("select", chosen), *overrides("agree", SECTIONS["agree"])]
    assert launched("agree", *given, *by_config, "--set=s") == made
    short = [flag(name, value) for name, value in (chosen | SECTIONS["agree"]).items()]
    assert launched("agree", *given, *short, "--set=s") == made


def test_every_field_of_a_selection_arrives_by_the_config_and_by_short_flags() -> None:
    fields, of_set = SECTIONS["identify"], {"name": ""}
    assert launched("identify", "--run=r", *overrides("identify", fields)) == [of_set | fields]
    short = [flag(name, value) for name, value in fields.items()]
    assert launched("identify", "--run=r", *short, "--name=s") == [fields | {"name": "s"}]


def test_every_field_of_a_choice_of_units_arrives_by_the_config_and_by_short_flags() -> None:
    fields, named = SECTIONS["select"], {"name": "", "set_name": "excess"}
    assert launched("select", "--run=r", *overrides("select", fields)) == [fields, named]
    short = [flag(name, value) for name, value in fields.items()]
    assert launched("select", "--run=r", *short, "--name=n", "--set=s") == [fields, {"name": "n", "set_name": "s"}]


def test_a_field_of_a_selection_that_is_not_given_is_left_to_the_run(tmp_path: Path) -> None:
    """All that a file says is given, whatever it says; without a file, what flags name."""
    given = ("--run=r", "--config.identify.epsilon=0.05", "--ties=drop")
    assert launched("identify", *given) == [{"name": "", "epsilon": 0.05, "ties": "drop"}]
    assert launched("identify", "--run=r", "--nopool") == [{"name": "", "pool": False}]
    whole = {"name": ""} | DEFAULT["identify"]
    assert launched("identify", "--config=configs/default.py", "--run=r") == [whole]
    (tmp_path / "flags.txt").write_text(
        "--config=configs/default.py\n--config.set_name=s\n--config.identify.epsilon=0.2\n"
    )
    named = launched("identify", "--run=r", f"--flagfile={tmp_path / 'flags.txt'}", "--epsilon=0.3")
    assert named == [whole | {"name": "s", "epsilon": 0.3}]


def test_every_field_of_a_study_arrives() -> None:
    alone = {name: OTHER[name] for name in ("instructions", "note", "set_name")}
    wanted = SECTIONS | alone | {"trainings": {"all": [0.5]}, "pairs": {"a": {"base": "x"}}}
    assert wanted.keys() == set(default_config())
    flags = [one for section, fields in SECTIONS.items() for one in overrides(section, fields)]
    flags += [flag(f"config.{name}", wanted[name]) for name in (*alone, "trainings", "pairs")]
    (settings,) = launched("analyze", "--config=configs/default.py", "--output=o", *flags)
    assert settings == wanted


def test_a_field_of_a_pair_arrives() -> None:
    flags = ("--config=configs/demo.py", "--config.pairs.moe.train.base_steps=7", "--output=o")
    (settings,) = launched("analyze", *flags)
    assert settings["pairs"]["moe"]["train"]["base_steps"] == 7


def test_sections_in_order() -> None:
    assert list(StudySettings.__dataclass_fields__) == [
        "instructions", "note", "set_name", "execution", "capture", "identify", "attribute", "select", "evaluate",
        "compare", "sweep", "agree", "align", "ablate", "answer", "steer", "explore", "tune", "tunings",
        "trainings", "pairs",
    ]  # fmt: skip


def test_defaults_of_functions_are_those_of_the_config() -> None:
    """Without arguments, each step does what the default config says."""
    default = StudySettings()
    for step, kinds in ((capture, ("settings", "selection", "execution")), (select, ("settings",)),
                        (evaluate, ("settings",)), (compare, ("settings",)),
                        (align, ("settings",)), (attribute, ("settings", "execution")),
                        (explore, ("settings", "execution")), (finetune, ("settings", "execution")),
                        (ablate, ("settings", "execution"))):  # fmt: skip
        parameters = inspect.signature(step).parameters
        section = {
            "settings": {"finetune": "tune"}.get(step.__name__, step.__name__),
            "selection": "identify",
            "execution": "execution",
        }
        assert [parameters[kind].default for kind in kinds] == [getattr(default, section[kind]) for kind in kinds]
        assert (
            step in (capture, ablate, attribute, align, finetune)
            or parameters["set_name"].default == default.name_of_sets
        )
    assert inspect.signature(identify).parameters["name"].default == default.set_name


@pytest.mark.parametrize(("section", "change", "message"), [
    ("execution", {"batch_tokens": 0}, "execution.batch_tokens must be positive, got 0"),
    ("capture", {"rows_per_block": 3}, "capture.rows_per_block must be a power of two, got 3"),
    ("identify", {"epsilon": 0.0}, "epsilon must be within (0, 1], got 0.0"),
    ("select", {"half": "third"}, "half 'third' is not known; known: first, second, all"),
    ("evaluate", {"stratum_rows": 0}, "stratum_rows is 0: it must be 1 or more"),
    ("compare", {"seed": -1}, "seed is -1: it must be 0 or more"),
    ("attribute", {"steps": 0}, "steps must be positive, got 0"),
    ("attribute", {"per_category": -1}, "per_category must not be negative, got -1"),
    ("explore", {"top": 0}, "top must be positive, got 0"),
    ("align", {"epsilon": 2.0}, "epsilon is 2.0: it must be above 0 and at most 1"),
    ("tune", {"epochs": 0}, "epochs must be positive, got 0"),
    ("ablate", {"draws": 0}, "draws 0 must be positive and per_category 0 not negative"),
])  # fmt: skip
def test_a_study_is_checked_in_every_section(section: str, change: dict[str, Any], message: str) -> None:
    StudySettings().check()
    study = dataclasses.replace(
        StudySettings(), **{section: dataclasses.replace(StudySettings().sections[section], **change)}
    )
    with pytest.raises(InputError) as error:
        study.check()
    assert str(error.value) == message


def test_a_study_has_one_attribution() -> None:
    study = dataclasses.replace(StudySettings(), select=SelectSettings(selector="auroc,attribution"))
    study.check()
    other = dataclasses.replace(study, attribute=dataclasses.replace(study.attribute, method="integrated"))
    with pytest.raises(InputError, match=r"align\.method is gradient, but a study has one attribution"):
        other.check()
    other = dataclasses.replace(other, align=dataclasses.replace(study.align, method="integrated"))
    with pytest.raises(InputError, match=r"select\.method is gradient, but a study has one attribution"):
        other.check()


def test_a_selector_of_counts_needs_counts() -> None:
    """Each of those that read counts, and no other."""
    default = StudySettings()
    sets = dataclasses.replace(default, capture=dataclasses.replace(default.capture, keep="sets"))
    with pytest.raises(InputError, match=r"identify\.selector excess needs the counts of all instructions"):
        sets.check()
    sets = dataclasses.replace(sets, identify=Selection("frequency"), agree=AgreeSettings("core,unique"))
    assert set(OF_COUNTS) == set(MEASURES)
    for selector in SELECTORS:
        study = dataclasses.replace(sets, select=SelectSettings(selector=selector))
        if selector not in MEASURES:
            study.check()
            continue
        with pytest.raises(InputError, match=f"select.selector {selector} reads counts, and with capture.keep=sets"):
            study.check()
        study = dataclasses.replace(sets, select=SelectSettings("core"), agree=AgreeSettings(f"core,{selector}"))
        with pytest.raises(InputError, match=f"agree.selectors {selector} reads counts, and with capture.keep=sets"):
            study.check()


@pytest.mark.parametrize(("field", "value", "message"), [
    ("capture.max_tokens", None, "config field capture.max_tokens must be of type int, got None"),
    ("capture.max_tokens", 1.5, "config field capture.max_tokens must be of type int, got 1.5"),
    ("capture.max_tokens", True, "config field capture.max_tokens must be of type int, got True"),
    ("capture.truncate", 1, "config field capture.truncate must be of type bool, got 1"),
    ("compare.rho", "half", "config field compare.rho must be of type float, got 'half'"),
    ("evaluate.shuffles", 3, "config field evaluate.shuffles is not known; known: bootstraps, permutations"),
    ("evaluation", 3, "config field evaluation is not known"),
    ("capture", None, "config field capture must be of type dict, got None"),
    ("capture", {"max_tokens": 3}, "config field capture.convention is missing"),
    ("capture.placement", "pmap", "config field capture.placement is not known; known: convention, count_window"),
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
    epsilon = checked(ConfigDict(values)).identify.epsilon
    assert (epsilon, type(epsilon)) == (1.0, float)
    del values["compare"]
    with pytest.raises(InputError, match=r"^config field compare is missing"):
        checked(ConfigDict(values))
