"""`sparcom status`: what it says of runs, studies and results, and of places that are none of these."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import sparcom_jax as sj
from sparcom_jax.errors import InputError
from sparcom_jax.stages import write_marker
from sparcom_jax.status import STEPS, status
from sparcom_jax.store.explored import write_explored
from sparcom_jax.store.schema import vector
from tests.synthetic import MIXED, make_run, random_masks, random_values, write_attribution, write_sets
from tests.synthetic_results import edit, make_results

LABELS = [i % 3 for i in range(72)]
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def run(tmp_path: Path) -> sj.Run:
    return make_run(tmp_path / "run", LABELS, groups=MIXED)


def fields(shown: str) -> dict[str, str]:
    """The lines at the top, by their first word."""
    return dict(re.split(r"\s{2,}", line, maxsplit=1) for line in shown.partition("\n\n")[0].splitlines())


def table(shown: str, title: str) -> list[list[str]]:
    """The rows of a table, without its header."""
    (found,) = (part for part in shown.split("\n\n") if part.startswith(f"{title}:"))
    return [re.split(r"\s{2,}", line.strip()) for line in found.splitlines()[2:]]


def test_a_run_with_nothing_beside_it(run: sj.Run, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    shown = status(run.location)
    assert fields(shown) == {
        "run": run.location,
        "model": "hub/made-up (llama), 1,234 parameters in 4 layers",
        "units": "mlp 19, shared 20, routed 78, expert 6",
        "instructions": "rows.jsonl: 72 (CLS 24, QA 24, SUM 24)",
        "done": "72 of 72",
        "tokens": f"{run.token_count.sum():,} fed, {run.token_count.sum():,} of them counted",
        "settings": "the defaults",
        "computed": "in float32 on cpu, by jax 0",
    }
    assert shown.endswith("\n\nsets: none\n\nunits: none\n\nattributions: none\n\nexplored: none")
    assert sorted(tmp_path.rglob("*")) == before


def test_sets_units_and_attributions(run: sj.Run) -> None:
    write_sets(run, random_masks(run))
    write_sets(run, random_masks(run), "strict", selector="threshold", threshold=0.9, ties="drop")
    write_attribution(run, random_values(run), per_category=4)
    few = sj.SelectSettings(selector="difference", size=5, expert_size=1)
    sj.select(run, few)
    sj.select(run, sj.SelectSettings(selector="difference", share=0.05, half="all"), name="all")
    sj.select(run, few, name="usual")
    attributes = run.store.read_attributes("units/usual") or {}
    run.store.write_group("units/usual", attributes | {"size": None, "expert_size": 0})
    (cores,) = sj.select(run, sj.SelectSettings(selector="core", rho=0.3))
    counts = [cores.counts(of) for of in (("mlp", "shared", "routed"), ("expert",))]
    ranges = [f"{of.min()} to {of.max()}" if of.min() < of.max() else str(of.min()) for of in counts]
    core = [f"neurons {ranges[0]}, experts {ranges[1]}"]
    write_explored(run, "all", {"cards": []})
    shown = status(run.location)
    groups = "mlp, shared, routed, expert"
    assert table(shown, "sets") == [
        ["excess", "excess", "epsilon 0.05", "include", groups],
        ["strict", "threshold", "threshold 0.9", "drop", groups],
    ]
    assert table(shown, "units") == [
        ["all", "difference", "share 0.05", "neurons 6, experts 1", "all", groups],
        ["core", "core", "its rule", *core, "36 of 72", groups],
        ["difference", "difference", "5, expert_size 1", "neurons 5, experts 1", "36 of 72", groups],
        ["usual", "difference", "default", "neurons 5, experts 1", "36 of 72", groups],
    ]
    assert table(shown, "attributions") == [["gradient", "1", "4 of each category", groups]]
    assert table(shown, "explored") == [["all"]]


def test_what_was_made_of_a_run_and_is_of_no_use(run: sj.Run) -> None:
    write_attribution(run, random_values(run))
    attributes = run.store.read_attributes("attribution/gradient") or {}
    run.store.write_group("attribution/gradient", attributes | {"complete": False})
    run.store.write_group("attribution/integrated", attributes | {"run_digest": "0"})
    run.store.write_group("sets/old", {"schema_version": 1})
    shown = status(run.location)
    unfinished, of_another = table(shown, "attributions")
    assert unfinished[-1] == "unfinished; run the same attribute command again to finish it"
    assert of_another[0] == "integrated (of another run)"
    assert table(shown, "sets")[0][0].startswith("old (schema_version 1, this version reads ")


def test_settings_that_are_not_the_defaults(run: sj.Run) -> None:
    manifest = run.manifest
    changed = replace(
        manifest,
        capture={"template": "chat", "scope": "prompt", "keep": "sets", "template_digest": "0"},
        execution={"placement": "mesh:2"},
        selection={"selector": "frequency", "epsilon": 0.05, "ties": "drop"},
    )
    run.store.write_group(attributes=changed.to_json())
    shown = fields(status(run.location))["settings"]
    assert shown == ("capture.template=chat capture.keep=sets execution.placement=mesh:2 identify.selector=frequency "
                     "identify.ties=drop")  # fmt: skip


def test_a_run_that_is_unfinished_and_one_that_has_only_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, done=False)
    again = "; run the same capture command again to finish it"
    assert fields(status(run.location))["done"] == f"0 of 72{again}"
    run.store.create_array(vector("instruction/done", "uint8", "instruction", 72))[:40].write(1).result()
    assert fields(status(run.location))["done"] == f"40 of 72{again}"
    for name in ("instructions.jsonl", "instruction/"):
        run.store.delete_prefix(name)
    run.store.write_group(attributes=replace(run.manifest, tokens=None).to_json())
    shown = fields(status(run.location))
    assert (shown["done"], shown["instructions"]) == (f"0 of 72{again}", "rows.jsonl: 72 (CLS, QA, SUM)")
    assert "tokens" not in shown


def mark(study: Path, name: str, output: str | None = "0") -> None:
    (study / "stages").mkdir(parents=True, exist_ok=True)
    write_marker(study / "stages" / f"{name}.json", {"settings": {}, "inputs": {}, "output": output})


def test_a_study(tmp_path: Path) -> None:
    study = tmp_path / "study"
    make_results(study)
    for name in ("compare-a-base-a-tuned", "capture-a-tuned", "convert-a-base", "capture-a-base", "train-a"):
        mark(study, name)
    mark(study, "identify-a-base", None)
    (study / "runs/broken").mkdir()
    (study / "runs/broken/zarr.json").write_text("{}")
    shown = status(str(study))
    assert fields(shown)["report"] == "none yet; run the same analyze command again to finish it"
    assert table(shown, "stages (5 of the 6 that were begun are finished)") == [
        ["train", "a"], ["convert", "a-base"], ["capture", "a-base, a-tuned"], ["identify", "-", "a-base"],
        ["compare", "a-base-a-tuned"],
    ]  # fmt: skip
    base, broken, tuned = table(shown, "runs")
    assert base == ["base", "18 of 18", "excess", "-", "gradient", "auroc"]
    assert tuned == ["tuned", "18 of 18", "excess", "-", "-", "-"]
    assert broken[0] == "broken"
    assert str(study / "runs/broken") in broken[1]
    assert [kind for kind, _ in table(shown, "results")] == ["evaluate", "compare", "ablate", "align", "explore"]
    (study / "report.html").touch()
    assert fields(status(str(study)))["report"] == str(study / "report.html")


def test_a_study_that_has_only_begun(tmp_path: Path) -> None:
    mark(tmp_path, "train-a", None)
    assert status(str(tmp_path)).endswith("\n\nruns: none\n\nresults: none")


def test_steps_are_those_of_a_study() -> None:
    """Of whose stages the names begin with them."""
    source = "".join((ROOT / f"sparcom_jax/{name}.py").read_text() for name in ("study", "trainings"))
    assert {*re.findall(r'f"(\w+)-\{(?:self\.)?(?:name|first)\}[^"]*"', source)} == {*STEPS}
    words = " ".join((ROOT / "sparcom_jax/study.py").read_text().split())
    assert f"Its stages: {', '.join(STEPS)}." in words


def test_results(tmp_path: Path) -> None:
    results = make_results(tmp_path)
    runs = tmp_path / "runs"
    shown = status(str(results))
    assert fields(shown) == {"results": str(results)}
    rows = table(shown, "results")
    assert [row[:2] for row in rows] == [
        ["evaluate", "evaluate"], ["compare", "compare/across"], ["compare", "compare/tuned & <i>more</i>"],
        ["ablate", "ablate"], ["align", "align"], ["explore", "explore"],
    ]  # fmt: skip
    assert rows[0][2] == f"set excess of {runs / 'base'}"
    assert rows[2][2] == f"set excess of {runs / 'base'} and set excess of {runs / 'tuned'}"
    assert rows[4][2] == f"attribution gradient of {runs / 'base'}"
    edit(results / "evaluate", lambda summary: summary.update(schema_version=1))
    edit(results / "align", lambda summary: summary.pop("groups"))
    rows = table(status(str(results)), "results")
    assert rows[0][2].startswith("schema_version is 1, this version reads ")
    assert rows[4][2] == "no field 'groups'"
    assert table(status(str(results / "ablate")), "results")[0][:2] == ["ablate", "."]


def no_json(path: Path) -> None:
    (path / "summary.json").write_text("{")


def no_marker(path: Path) -> None:
    mark(path, "train-a")
    (path / "stages/train-a.json").write_text(json.dumps({"settings": {}}))


def no_schema(path: Path) -> None:
    run = make_run(path, LABELS)
    attributes: dict[str, Any] = run.manifest.to_json() | {"schema_version": 1}
    run.store.write_group(attributes=attributes)


BAD = {
    "an empty directory": (lambda path: None, "not a run, a study or results (no zarr.json, stages/ or summary.json)"),
    "a summary that is no JSON": (no_json, "/summary.json: not JSON"),
    "a marker of another version": (no_marker, "/stages/train-a.json: not the marker of a stage"),
    "a run of another version": (no_schema, "/zarr.json: schema_version is 1, this version reads"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case: str, tmp_path: Path) -> None:
    make, message = BAD[case]
    make(tmp_path)
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}.*{re.escape(message)}"):
        status(str(tmp_path))


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no such directory$"):
        status(str(tmp_path / "nowhere"))


def test_the_command_needs_no_jax(run: sj.Run, tmp_path: Path) -> None:
    absent = "import sys; sys.modules.update(dict.fromkeys(('jax', 'flax', 'transformers', 'torch', 'altair'), None))"
    program = [sys.executable, "-c", f"{absent}\nfrom sparcom_jax.console import main; main()", "status"]
    done = subprocess.run([*program, run.location], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{status(run.location)}\n", "")
    done = subprocess.run([*program, str(tmp_path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {tmp_path}: not a run, a study or results")


def test_what_a_terminal_would_act_on_is_written_as_an_escape(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", LABELS, categories=("\x1b[31mred", "a\nb", "\u202eabc"))
    shown = status(run.location)
    assert "(\\x1b[31mred 24, a\\nb 24, \\u202eabc 24)" in shown
    assert all(one.isprintable() or one == "\n" for one in shown)


def test_texts_that_are_cut_off_are_counted(run: sj.Run) -> None:
    manifest = run.manifest
    cut = replace(manifest, instructions=replace(manifest.instructions, truncated={"i0": 3, "i4": 9}))
    run.store.write_group(attributes=cut.to_json())
    assert fields(status(run.location))["tokens"].endswith(" of them counted; 2 texts are cut off")
