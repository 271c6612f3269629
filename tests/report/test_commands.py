"""The commands that the page names: flags that a command takes, all that it needs, and the values that are recorded."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sparcom_jax.analysis.agree import agree
from sparcom_jax.analysis.settings import AgreeSettings, SweepSettings
from sparcom_jax.analysis.sweep import sweep
from sparcom_jax.identify.selection import Selection
from sparcom_jax.report.commands import of_result, of_run, of_settings, overrides
from sparcom_jax.results.reader import find_results
from sparcom_jax.results.summary import SHAPES
from sparcom_jax.select.settings import SelectSettings
from sparcom_jax.settings import checked, default_config
from sparcom_jax.store.run import open_run
from tests.synthetic_results import make_results, write_trainings

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import json
from sparcom_jax.completion import options
from sparcom_jax.shipped import shipped
print(json.dumps({name: list(options(path)) for name, path in shipped("launch").items()}))
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("commands")
    made = make_results(root)
    run = open_run(root / "other")
    for half, selectors in (("second", "auroc,difference"), ("all", "auroc,core")):
        agree(run, made / f"agree-{half}", SelectSettings(size=3, half=half), AgreeSettings(selectors))
    sweep(run, made / "sweep", Selection("threshold"), SweepSettings("0.25,0.5", rho=0.25))
    write_trainings(made)
    results = find_results(made)
    assert {result.kind for result in results} == {*SHAPES} - {"answer"}
    sides = [side for result in results for side in result.sides.values()]
    return [*map(of_result, results), *(line for side in sides for line in of_run(side))]


def test_all_that_a_command_needs_is_given_and_makes_sense(lines: list[str]) -> None:
    for line in lines:
        _, name, *arguments = shlex.split(line)
        given = dict(argument[2:].split("=", 1) for argument in arguments)
        source = (ROOT / "launch" / f"{name}.py").read_text(encoding="utf-8")
        for flag in re.findall(r'DEFINE_string\("([\w-]+)", [^)]*required=True\)', source):
            assert given[flag], line
        config = default_config()
        for flag, value in given.items():
            if flag.startswith("config."):
                section, field = flag.removeprefix("config.").split(".")
                config[section][field] = type(config[section][field])(value)
        settings = checked(config)
        getattr(settings, {"finetune": "tune"}.get(name, name), settings.capture).check()


def test_agreements_and_sweeps(lines: list[str]) -> None:
    found = {line.split("--output=results/")[1].split()[0]: line for line in lines if "--output=results/" in line}
    start = {name: line.split(" --output=")[0].partition(" --run=")[0] for name, line in found.items()}
    assert (start["agree-second"], start["sweep"]) == ("sparcom agree", "sparcom sweep")
    assert found["agree-second"].endswith(
        "--output=results/agree-second --config.agree.selectors=auroc,difference --config.select.size=3 "
        "--config.select.half=second"
    )
    assert " --set=" not in found["agree-second"]
    assert " --set=excess " in found["agree-all"]
    assert found["sweep"].endswith(
        "--output=results/sweep --config.sweep.cuts=0.25,0.5 --config.sweep.rho=0.25 "
        "--config.identify.selector=threshold"
    )


def test_what_was_chosen() -> None:
    model = {"path": "models/a", "source": "hf"}
    manifest = {"instructions": {"source": "hexainst"}, "capture": {"template": "chat"}, "execution": {}}
    side = {"run": "r", "model": model, "manifest": manifest}
    units = {"run": "r", "name": "mine", "selector": "core", "half": ["a"], "chosen_on": "second", "size": None,
             "set": {"name": "frequency"}, "rho": 0.25}  # fmt: skip
    start = [
        "sparcom convert --source=hf --output=models/a",
        "sparcom capture --model=models/a --instructions=hexainst --output=r --config.capture.template=chat",
    ]
    assert [*of_run({**side, "units": units})] == [
        *start,
        "sparcom select --run=r --name=mine --set=frequency --config.select.selector=core --config.select.half=second "
        "--config.select.rho=0.25",
    ]
    gradient = {"run": "r", "name": "gradient", "method": "gradient", "steps": 1, "per_category": 4}
    assert [*of_run({**side, "attribution": gradient})][2:] == [
        "sparcom attribute --model=models/a --run=r --config.attribute.per_category=4"
    ]
    integrated = gradient | {"method": "integrated", "steps": 8, "per_category": 0}
    assert [*of_run({**side, "attribution": integrated})][2:] == [
        "sparcom attribute --model=models/a --run=r --config.attribute.method=integrated --config.attribute.steps=8"
    ]
    kept = manifest | {"capture": {"keep": "sets"}, "selection": {"selector": "frequency", "epsilon": 0.1}}
    made = {"run": "r", "name": "frequency", "selector": "frequency", "epsilon": 0.1}
    assert [*of_run({**side, "manifest": kept, "set": made})][1:] == [
        "sparcom capture --model=models/a --instructions=hexainst --output=r --config.capture.keep=sets "
        "--config.identify.selector=frequency --config.identify.epsilon=0.1"
    ]


def test_every_flag_is_one_of_the_command(lines: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    options = json.loads(done.stdout)
    assert {line.split()[1] for line in lines} >= {"evaluate", "compare", "ablate", "align", "explore", "identify"}
    for line in lines:
        program, name, *arguments = shlex.split(line)
        assert program == "sparcom"
        for argument in arguments:
            flag, equals, value = argument.partition("=")
            assert flag + equals in options[name], line
            assert value, line


def test_what_is_not_a_default_is_given(lines: list[str]) -> None:
    evaluate = next(line for line in lines if line.startswith("sparcom evaluate"))
    assert evaluate.endswith(
        "--output=results/evaluate --config.evaluate.permutations=9 --config.evaluate.bootstraps=9"
    )
    assert "--set=excess" in evaluate
    compare = next(line for line in lines if "more" in line)
    assert "'results/compare/tuned & <i>more</i>'" in compare


def test_what_depends_on_others_is_left_out() -> None:
    assert overrides("select", {"size": None, "selector": "lape", "seed": 3, "half": ["a", "b"], "run": "x"}) == {
        "config.select.selector": "lape", "config.select.seed": 3,
    }  # fmt: skip
    assert overrides("ablate", {"draws": 40, "template": "chat"}) == {}
    assert of_settings("answer", {"draws": 1, "execute": False, "per_category": 8, "how": "zero"}) == {
        "config.answer.draws": 1, "config.ablate.per_category": 8,
    }  # fmt: skip
