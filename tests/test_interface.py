"""`import sparcom_jax as sj`: what it has, that it is light, and that paths and names do wherever things do."""

import ast
import inspect
import subprocess
import sys
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import sparcom_jax as sj
from sparcom_jax.convert.model_dir import ModelDir
from sparcom_jax.identify.selection import SelectionFields

PACKAGE = Path(sj.__file__)
FUNCTIONS = [name for name in sj.__all__ if inspect.isfunction(getattr(sj, name))]
STEPS = ("convert", "capture", "identify", "select", "evaluate", "compare", "ablate", "attribute", "explore", "report")
PLACES = {"run", "base", "tuned", "units_run", "model", "output", "results", "source"}
EXECUTION = sj.ExecutionSettings(batch_tokens=512)


def program(*lines: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, cwd=PACKAGE.parents[1]
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_it_is_light() -> None:
    heavy = ("jax", "flax", "orbax", "transformers", "xarray", "pandas", "scipy", "altair", "zarr", "torch", "optax")
    program("import sys, sparcom_jax as sj", f"assert not {{*sys.modules}} & {{*{heavy}}}",
            "assert {*sj.__all__} <= {*dir(sj)}", "assert 'jax' not in sys.modules")  # fmt: skip


@pytest.mark.parametrize(
    "before", ["", "sparcom_jax.capture.capture, sparcom_jax.report.page, sparcom_jax.explore.step"]
)
def test_names_are_functions_and_not_the_packages_of_the_same_name(before: str) -> None:
    program(f"import {before}" if before else "", "import sparcom_jax as sj", "import types",
            "found = {name: getattr(sj, name) for name in sj.__all__}",
            "assert not [name for name, value in found.items() if isinstance(value, types.ModuleType)], found",
            "import sparcom_jax.convert.gguf, sparcom_jax.capture.texts",
            "assert sj.convert is found['convert'] and sj.capture is found['capture']")  # fmt: skip


def test_one_table_has_what_is_imported_late() -> None:
    (late,) = (node for node in ast.parse(PACKAGE.read_text()).body if isinstance(node, ast.If))
    told = {alias.name: node.module for node in late.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert told == {name: f"sparcom_jax.{module}" for name, module in sj.LAZY.items()}
    assert {*sj.LAZY, *STEPS, "open_run", "open_sets", "open_units", "activations"} <= {*sj.__all__}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = sj.nothing


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_are_typed(name: str) -> None:
    function = getattr(sj, name)
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation not in (inspect.Parameter.empty, Any, "Any"), parameter
        if parameter.name in PLACES:
            accepted = typing.get_args(parameter.annotation)
            assert {str, Path} <= {*accepted}, parameter
    assert inspect.getdoc(function)


def test_the_tour_names_what_there_is() -> None:
    tour = str(sj.__doc__).split("\n\n")[2]
    called = [node.attr for node in ast.walk(ast.parse(tour)) if isinstance(node, ast.Attribute)
              and isinstance(node.value, ast.Name) and node.value.id == "sj"]  # fmt: skip
    assert {*STEPS} - {"compare", "attribute"} <= {*called} <= {*sj.__all__}


def test_identify_takes_the_fields_of_a_selection_by_name() -> None:
    assert {field.name: field.type for field in fields(sj.Selection)} == SelectionFields.__annotations__


def test_every_step_by_paths_and_names(hf_llama: Path, instruction_file: Path, tmp_path: Path) -> None:
    model, path, results = tmp_path / "model", tmp_path / "run", tmp_path / "results"
    assert isinstance(sj.convert(str(hf_llama), str(model)), ModelDir)
    run = sj.capture(str(model), str(instruction_file), str(path), execution=EXECUTION)
    again = sj.capture(model, instruction_file, tmp_path / "again", execution=EXECUTION)
    assert sj.identify(str(path), epsilon=0.2).digest == sj.identify(run, epsilon=0.2).digest
    sj.identify(again, epsilon=0.2)
    assert sj.open_sets(path).digest == sj.open_sets(run, "excess").digest
    by = sj.SelectSettings(selector="auroc", size=6, control_length=False)
    (units,) = sj.select(path, by)
    assert sj.open_units(str(path), "auroc").digest == units.digest
    few = {"permutations": 20, "bootstraps": 20}
    told = [
        sj.evaluate(of, results / str(at), sj.EvaluateSettings(**few)) for at, of in enumerate((run, str(path), path))
    ]
    assert told[0] == told[1] | {"run": told[0]["run"]} == told[2] | {"run": told[0]["run"]}
    compared = sj.compare(path, str(tmp_path / "again"), str(results / "compare"), sj.CompareSettings(**few))
    assert compared["kind"] == "compare"
    assert sj.attribute(str(model), path, sj.AttributeSettings(per_category=2), EXECUTION).rows.size == 6
    settings = sj.AblationSettings(per_category=2, draws=1, bootstraps=5)
    ablations = [
        sj.ablate(str(model), str(path), "auroc", str(results / "ablate"), settings, EXECUTION),
        sj.ablate(sj.open_model(model), run, units, results / "again", settings, EXECUTION),
    ]
    assert ablations[0]["targets"] == ablations[1]["targets"]
    cores = sj.ablate(model, run, sj.open_sets(run), tmp_path / "cores", settings, EXECUTION)
    assert cores["targets"]["neurons"] != ablations[0]["targets"]["neurons"]
    card = sj.ExploreSettings(top=1, examples=1, sample=1, bootstraps=5)
    explored = sj.explore(str(model), str(path), "auroc", card, EXECUTION)
    assert explored == sj.open_explored(str(path), "auroc") == sj.open_explored(run, "auroc")
    page = sj.report(str(results), str(tmp_path / "report.html"))
    assert page.read_text().count("<h2>") > 5


def test_what_is_no_run_or_no_units_is_named(llama: ModelDir, tmp_path: Path) -> None:
    for call in (
        lambda: sj.identify(tmp_path / "none"),
        lambda: sj.select(str(tmp_path / "none")),
        lambda: sj.evaluate(tmp_path / "none", tmp_path / "out"),
        lambda: sj.ablate(llama, tmp_path / "none", "auroc", tmp_path / "out"),
        lambda: sj.explore(llama, tmp_path / "none", "auroc"),
        lambda: sj.open_sets(tmp_path / "none"),
        lambda: sj.open_units(tmp_path / "none", "auroc"),
    ):
        with pytest.raises(sj.InputError, match=r"none: not a run \(no zarr\.json"):
            call()
    with pytest.raises(sj.InputError, match="nowhere: not a converted model"):
        sj.capture("nowhere", "hexainst", tmp_path / "out")
    with pytest.raises(sj.InputError, match=r"rows\.jsonl: cannot be read"):
        sj.capture(llama, tmp_path / "rows.jsonl", tmp_path / "out")
    assert not any(tmp_path.iterdir())
