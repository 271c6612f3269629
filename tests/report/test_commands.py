"""The commands that the page names: every flag is one of the command, with the value that the results record."""

import json
import shlex
import subprocess
import sys

import pytest

from sparcom_jax.report.commands import of_result, of_run, of_settings, overrides
from sparcom_jax.results.reader import find_results
from tests.synthetic_results import make_results

PROGRAM = """
import json
from sparcom_jax.completion import options
from sparcom_jax.shipped import shipped
print(json.dumps({name: list(options(path)) for name, path in shipped("launch").items()}))
"""


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    results = find_results(make_results(tmp_path_factory.mktemp("commands")))
    sides = [side for result in results for side in result.sides.values()]
    return [*map(of_result, results), *(line for side in sides for line in of_run(side))]


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
