"""Every launcher through its command line, as a user would call it: results, one-line errors, exit codes, kill -9."""

import json
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

import sparcom_jax as sj
from sparcom_jax import Run
from sparcom_jax.errors import InputError
from tests import checkpoints
from tests.launch.programs import ROOT, command, done, environment, launch


@pytest.fixture(scope="module")
def work(hf_llama: Path, instruction_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two checkpoints and an instruction file."""
    directory = tmp_path_factory.mktemp("work")
    (directory / "base").symlink_to(hf_llama)
    checkpoints.save_model(directory / "tuned", "llama", seed=1)
    (directory / "rows.jsonl").symlink_to(instruction_file)
    rows = [json.loads(line) for line in instruction_file.read_text().splitlines()]
    many = [json.dumps(row | {"id": f"{row['id']}-{copy}"}) + "\n" for copy in range(10) for row in rows]
    (directory / "many.jsonl").write_text("".join(many))
    (directory / "odd.py").write_text("def get_config():\n    raise ValueError('of its own')\n")
    (directory / "itself.txt").write_text("--flagfile=itself.txt\n")
    (directory / "pdb.txt").write_text("--pdb_post_mortem\n")
    (directory / "bytes.txt").write_bytes(b"\xff\xfe")
    return directory


def test_the_whole_chain(work: Path) -> None:
    for name in ("base", "tuned"):
        assert done(work, "convert", f"--source={name}", f"--output=models/{name}") == f"models/{name}"
        done(work, "capture", f"--model=models/{name}", "--instructions=rows.jsonl", f"--output=runs/{name}",
             "--config=" + str(ROOT / "configs/default.py"), "--config.execution.batch_tokens=512")  # fmt: skip
        done(work, "identify", f"--run=runs/{name}", "--epsilon=0.1", "--ties=exact")
    done(work, "evaluate", "--run=runs/base", "--output=results/evaluate", "--permutations=50", "--bootstraps=50")
    done(work, "compare", "--base=runs/base", "--tuned=runs/tuned", "--output=results/compare", "--permutations=50",
         "--bootstraps=50")  # fmt: skip
    made = done(work, "select", "--run=runs/base", "--selector=auroc,difference", "--size=4", "--nocontrol_length")
    assert made.splitlines() == ["runs/base/units/auroc", "runs/base/units/difference"]
    made = done(work, "attribute", "--model=models/base", "--run=runs/base", "--config.execution.batch_tokens=512")
    assert made == "runs/base/attribution/gradient"
    done(work, "select", "--run=runs/base", "--selector=attribution", "--size=4")
    done(work, "align", "--run=runs/base", "--output=results/align", "--epsilon=0.1")
    explore = ("explore", "--model=models/base", "--run=runs/base", "--units=auroc", "--top=2", "--sample=2")
    assert done(work, *explore, "--config.execution.batch_tokens=512") == "runs/base/explored/auroc.json"
    few = ("--config.ablate.per_category=2", "--config.ablate.draws=1")
    ablate = ("ablate", "--model=models/base", "--run=runs/base", *few)
    done(work, *ablate, "--units=auroc", "--output=results/ablate")
    done(work, *ablate, "--config.ablate.rho=0.3", "--output=cores")
    few = ("--new_tokens=4", "--per_category=1", "--alphas=0,2", "--category=B")
    steered = ("steer", "--model=models/base", "--run=runs/base", "--units=auroc", "--output=results/steer")
    assert done(work, *steered, *few) == "results/steer"
    assert done(work, "export", "--model=models/base", "--output=back") == "back"
    of_b = ("--run=runs/base", "--units=auroc", "--category=B", "--output=edited")
    assert done(work, "edit", "--source=back", *of_b, "--how=scale", "--alpha=0.5") == "edited"
    assert json.loads((work / "edited/sparcom_edit.json").read_text())["edited"]["neurons"] == 4
    train = ("--train=units:auroc:B", "--category=B", "--epochs=1", "--per_category=2", "--validation=0")
    of_run = ("--model=models/base", "--run=runs/base", "--instructions=rows.jsonl", "--output=results/tuned")
    assert done(work, "finetune", *of_run, *train, "--config.execution.batch_tokens=512") == "results/tuned"
    of = ("--run=runs/base", "--trained=results", "--output=results/tunings", "--bootstraps=20", "--draws=20")
    assert done(work, "tunings", *of) == "results/tunings"
    assert done(work, "report", "--results=results", "--output=report.html").endswith("report.html")
    page = (work / "report.html").read_text()
    places = ("own-evaluate-evaluate", "tuning-compare-compare", "matter-ablate-ablate", "attribution-align-align",
              "trained-finetune-tuned", "trained-tunings-tunings")  # fmt: skip
    assert [page.count(f'<div id="{place}">') for place in places] == [1] * 6
    run = sj.open_run(work / "runs/base")
    run.require_complete()
    assert run.manifest.execution["batch_tokens"] == 512
    assert (sj.open_sets(run, "excess").size("mlp") == 24).all()


def test_sets_in_the_place_of_counts(work: Path) -> None:
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    by = ("selector=frequency", "epsilon=0.1", "ties=exact")
    done(work, "capture", "--model=models/base", "--instructions=rows.jsonl", "--output=runs/sets",
         "--config.capture.keep=sets", *(f"--config.identify.{field}" for field in by))  # fmt: skip
    done(work, "identify", "--run=runs/sets")
    assert (sj.open_sets(sj.open_run(work / "runs/sets"), "frequency").size("mlp") == 24).all()
    result = launch(work, "identify", "--run=runs/sets", "--epsilon=0.2")
    message = "runs/sets: keeps the sets of epsilon 0.1, not counts that epsilon 0.2 could cut"
    assert (result.returncode, result.stderr.strip()[: len(message) + 7]) == (2, f"error: {message}")


BLOCKS_OF_TWO = ("--model=models/base", "--config.capture.rows_per_block=2", "--config.execution.batch_tokens=512")


def undisturbed(work: Path, rows: str) -> Run:
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    run = work / "runs" / f"whole-{rows}"
    if not run.exists():
        done(work, "capture", *BLOCKS_OF_TWO, f"--instructions={rows}", f"--output={run}")
    return sj.open_run(run)


def require_same(whole: Run, other: Run) -> None:
    other.require_complete()
    for name in ("mlp/positive_count", "instruction/token_count", "instruction/category", "mlp/layer"):
        np.testing.assert_array_equal(whole.read(name), other.read(name))
    assert whole.instructions == other.instructions


def test_killed_at_random_and_started_again(work: Path) -> None:
    """SIGKILL at random moments of one capture; what it becomes in the end is what an undisturbed one is."""
    whole = undisturbed(work, "rows.jsonl")
    flags = (*BLOCKS_OF_TWO, "--instructions=rows.jsonl", "--output=runs/killed")
    chance, kills = random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(command("capture", *flags), cwd=work, env=environment(work),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
        deadline = time.monotonic() + 60
        while process.poll() is None and not (work / "runs/killed/zarr.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    done(work, "capture", *flags)
    require_same(whole, sj.open_run(work / "runs/killed"))


@pytest.mark.parametrize("sign", ["zarr.json", "instruction/done/c/0"], ids=["as it begins", "in its midst"])
def test_interrupted_and_started_again(sign: str, work: Path) -> None:
    """Ctrl-C, also while threads compute: one line, exit code 130, and the same command completes the run."""
    whole = undisturbed(work, "many.jsonl")
    name = sign.replace("/", "-")
    flags = (*BLOCKS_OF_TWO, "--instructions=many.jsonl", f"--output=runs/{name}")
    process = subprocess.Popen(command("capture", *flags), cwd=work, env=environment(work), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    deadline = time.monotonic() + 60
    while not (work / "runs" / name / sign).exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, news = process.communicate(timeout=30)
    lines = news.splitlines()
    assert (process.returncode, output, lines[-1]) == (130, "", "interrupted: run the same command again to go on")
    assert "Traceback" not in news
    assert sum("interrupted" in line for line in lines) == 1
    with pytest.raises(InputError, match="capture is incomplete"):
        sj.open_run(work / "runs" / name).require_complete()
    done(work, "capture", *flags)  # the lock of a process that has ended is taken over
    require_same(whole, sj.open_run(work / "runs" / name))
    assert not list((work / "runs").glob(".*"))


BAD = {
    "no such source": (("convert", "--source=nowhere", "--output=x"), "nowhere: no such directory"),
    "an edit of what is there": (
        ("edit", "--source=base", "--units=nowhere", "--category=B", "--output=base"),
        "base: exists already; choose another --output or delete it",
    ),
    "a flag that is not there": (("convert", "--sauce=base"), "sauce"),
    "a flag that is missing": (("identify",), "--run"),
    "a value that is no number": (("identify", "--run=r", "--epsilon=much"), "epsilon"),
    "an argument that is no flag": (("identify", "--run=r", "extra"), "unexpected argument 'extra'"),
    "no such model": (("capture", "--model=nowhere", "--instructions=rows.jsonl", "--output=x"), "nowhere: not a conv"),
    "no such run": (("identify", "--run=nowhere"), "nowhere: not a run"),
    "no such config field": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture.max_token=3"),
        "max_token",
    ),
    "a config value of another type": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture.max_tokens=few"), "few",
    ),
    "no such config": (("analyze", "--config=nowhere.py", "--output=x"), "nowhere.py"),
    "an empty study": (("analyze", f"--config={ROOT / 'configs/default.py'}", "--output=x"), "pairs is empty"),
    "a field that this command does not read": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.identify.epsilon=0.1"),
        "--config.identify.epsilon has no effect on this command, which reads execution, capture, selector, "
        "epsilon, threshold, ties, pool of identify (only with capture.keep=sets)",
    ),
    "a field of experts, whose counts a capture keeps": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture.keep=sets",
         "--config.identify.expert_per_layer=2"), "--config.identify.expert_per_layer has no effect on this command",
    ),
    "a field that only a capture reads": (
        ("ablate", "--model=m", "--run=r", "--output=x", "--config.capture.template=chat"),
        "--config.capture.template has no effect on this command, which reads set_name, execution, ablate",
    ),
    "two sources of units": (
        ("ablate", "--model=m", "--run=r", "--output=x", "--units=u", "--set=s"),
        "--set is of the cores of a set, but --units names what is switched off; give one",
    ),
    "a field of sets, for units": (
        ("ablate", "--model=m", "--run=r", "--output=x", "--units=u", "--config.ablate.rho=0.3"),
        "--config.ablate.rho is of the cores of a set, but --units names what is switched off; give one",
    ),
    "a section without its fields": (
        ("capture", "--model=m", "--instructions=rows.jsonl", "--output=x", "--config.capture={'max_tokens': 3}"),
        "config field capture.convention is missing",
    ),
    "a config that fails": (("analyze", "--config=odd.py", "--output=x"), "--config=odd.py: ValueError: of its own"),
    "a flag that is empty": (("identify", "--run="), "flag --run is empty"),
    "a flagfile that is not there": (("identify", "--flagfile=none.txt"), "--flagfile: Unable to open flagfile: "),
    "a flagfile that is not there, of a study": (
        ("analyze", "--flagfile=none.txt"), "--flagfile: Unable to open flagfile: ",
    ),
    "a flagfile that is no text, of a capture": (("capture", "--flagfile=bytes.txt"), "--flagfile: 'utf-8' codec"),
    "a flagfile that names itself": (
        ("identify", "--run=r", "--flagfile=itself.txt"), "--flagfile: Hit circular flagfile dependency. Ignoring",
    ),
    "a flagfile that is no text": (("identify", "--run=r", "--flagfile=bytes.txt"), "--flagfile: 'utf-8' codec"),
    "an empty flagfile name": (("identify", "--run=r", "--flagfile="), "flag --flagfile is empty"),
    "a flag of absl": (("identify", "--run=r", "--only_check_args"), "flag --only_check_args is of no use here"),
    "a debugger": (("identify", "--run=r", "--run_with_pdb"), "flag --run_with_pdb is of no use here"),
    "a profiler": (
        ("identify", "--nouse_cprofile_for_profiling", "--run=r"), "flag --nouse_cprofile_for_profiling is of no use",
    ),
    "unknown flags that are let pass": (("identify", "--run=r", "--undefok=x", "--x=3"), "flag --undefok is of no use"),
    "a level of logging": (("identify", "--run=r", "--stderrthreshold=x"), "flag --stderrthreshold is of no use here"),
    "a foreign flag of a flagfile": (("identify", "--run=r", "--flagfile=pdb.txt"), "flag --pdb_post_mortem is of no"),
    **{f"a bad value of {field}": (
        ("analyze", f"--config={ROOT / 'configs/default.py'}", "--output=x", f"--config.{field}={value}"), message,
    ) for field, value, message in (
        ("execution.placement", "ring", "error: execution.placement 'ring' is not known; known: pmap, mesh, and "),
        ("execution.dtype", "int8", "error: execution.dtype 'int8' is not supported; supported: auto, float32"),
        ("capture.scope", "answer", "error: capture.scope 'answer' is not known; known: prompt, instruction, response"),
        ("identify.ties", "maybe", "error: ties 'maybe' is not known; known: include, drop, exact"),
        ("evaluate.rho", "1.5", "error: rho is 1.5: it must be above 0 and at most 1"),
        ("compare.bootstraps", "0", "error: bootstraps is 0: it must be 1 or more"),
        ("ablate.draws", "0", "error: draws 0 must be positive and per_category 0 not negative"),
    )},
    "a bad value by a short flag": (("evaluate", "--run=r", "--output=x", "--rho=half"), "flag --rho=half: could not"),
    "a short flag and a bad section": (
        ("compare", "--base=r", "--tuned=r", "--output=x", "--rho=0.4", "--config.compare={'rho': 0.3}"),
        "config field compare.bootstraps is missing",
    ),
    "a field that only a study reads": (
        ("identify", "--run=r", "--config.instructions=x"),
        "--config.instructions has no effect on this command, which reads set_name, identify",
    ),
    "no results": (("report", "--results=nowhere", "--output=x.html"), "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_code_2(case: str, work: Path) -> None:
    flags, message = BAD[case]
    result = launch(work, *flags)
    errors = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines() == errors[:1]
    assert message in errors[0]
    assert not (work / "x").exists()


def test_flags_in_a_file(work: Path) -> None:
    """Also those that stand in the place of the default config and of its fields."""
    config, file = str(ROOT / "configs/default.py"), work / "flags.txt"
    file.write_text(f"--model=nowhere\n# a comment\n--config={config}\n--config.capture.keep=sets\n")
    flags = ("--flagfile=flags.txt", "--instructions=rows.jsonl", "--output=x", "--config.identify.epsilon=0.1")
    result = launch(work, "capture", *flags)
    message = "error: nowhere: not a converted model (no sparcom.json); run convert first\n"
    assert (result.returncode, result.stderr) == (2, message)


def test_a_malformed_row_is_named(work: Path) -> None:
    if not (work / "models/base").exists():
        done(work, "convert", "--source=base", "--output=models/base")
    (work / "bad.jsonl").write_text(json.dumps({"id": "a", "category": "X", "instruction": ""}) + "\n")
    result = launch(work, "capture", "--model=models/base", "--instructions=bad.jsonl", "--output=y")
    assert result.returncode == 2
    message = "error: bad.jsonl:1: field 'instruction' must be a non-empty string"
    assert result.stderr.strip().splitlines()[-1] == message
    assert not (work / "y").exists()
